# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR's encoder with row-column attention."""

import torch

from dino_d2.modeling.encoder.row_column import RowColumnEncoder
from dino_d2.modeling.levels import make_levels

DIM = 16


def test_a_layer_by_hand():
    """Queries along rows have the position in x, queries along columns that in y; values have no position."""
    torch.manual_seed(0)
    encoder = RowColumnEncoder(1, embed_dim=DIM, feedforward_dim=32, num_heads=2, dropout=0.0)
    levels = make_levels([torch.zeros(2, DIM, 3, 4)], None)
    tokens, position = torch.randn(2, 12, DIM), torch.randn(2, 12, 2 * DIM)
    layer = encoder.layers[0]
    in_x, in_y = position[..., :DIM], position[..., DIM:]
    attended = layer.self_attention(tokens + in_x, tokens + in_y, tokens, position, (3, 4), None)
    expected = layer.feed_forward(layer.norm(tokens + attended))
    torch.testing.assert_close(encoder(tokens, position, levels), expected)
