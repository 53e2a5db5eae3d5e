# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR's encoder with row-column decoupled attention (section 3.4)."""

from torch import Tensor

from dino_d2.layers import RowColumnAttention
from dino_d2.modeling.levels import Levels

from .dense import DenseEncoder, DenseEncoderLayer


class RowColumnEncoderLayer(DenseEncoderLayer):
    """Row-column attention among the pixels of one level; positions are [B, S, 2 * D], x before y."""

    attention_class = RowColumnAttention

    def attend(self, x: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        row, column = position.chunk(2, dim=-1)
        return self.self_attention(x + row, x + column, x, position, levels.shapes[0], levels.padding_mask)


class RowColumnEncoder(DenseEncoder):
    """A stack of row-column layers; arguments as in :class:`DenseEncoder`."""

    layer_class = RowColumnEncoderLayer
