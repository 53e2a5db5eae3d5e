# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR's decoder: boxes are offsets from points (section 3.1)."""

from torch import Tensor

from dino_d2.layers import RowColumnAttention
from dino_d2.modeling.contracts import DecoderInputs, LayerPredictions
from dino_d2.modeling.heads import anchor_logits
from dino_d2.modeling.levels import Levels

from .dense import DenseDecoder, DenseDecoderLayer


class PointDecoder(DenseDecoder):
    """Boxes are offsets from the queries' points, which are not refined (section 3.1).

    Arguments as in :class:`DenseDecoder`; Anchor DETR has no norm before the heads (``nn.Identity``).
    """

    def forward(self, inputs: DecoderInputs) -> LayerPredictions:
        """Decode.

        Args:
            inputs: with anchors that are points [B, T, 2], and query positions.
        """
        assert inputs.query_positions is not None  # point queries make them
        states = self.run_layers(inputs, inputs.query_positions)
        boxes = (self.box_head(states) + anchor_logits(inputs.anchors, eps=1e-5)).sigmoid()
        return LayerPredictions(self.class_head(states), boxes)


class RowColumnDecoderLayer(DenseDecoderLayer):
    """Dense self-attention among queries, row-column attention to the memory (section 3.4).

    Query positions are [B, T, 3 * D]: D of the point, for self-attention, then D of its x and D of its y.
    """

    attention_class = RowColumnAttention

    def attend(
        self, x: Tensor, query_position: Tensor, memory: Tensor, memory_position: Tensor, levels: Levels
    ) -> Tensor:
        """Attention to the memory: content [B, T, D] -> [B, T, D]."""
        _, row, column = query_position.chunk(3, dim=-1)
        return self.cross_attention(x + row, x + column, memory, memory_position, levels.shapes[0], levels.padding_mask)


class RowColumnPointDecoder(PointDecoder):
    """A point decoder with row-column attention to the memory."""

    layer_class = RowColumnDecoderLayer
