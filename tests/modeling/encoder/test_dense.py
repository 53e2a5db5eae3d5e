# SPDX-License-Identifier: Apache-2.0
"""The dense encoder: every pixel attends to every pixel that shows the image."""

import torch

from dino_d2.modeling import DenseEncoder
from dino_d2.modeling.levels import make_levels

DIM = 16
SIZES = {"embed_dim": DIM, "feedforward_dim": 32, "num_heads": 2}


def inputs(mask=None):
    levels = make_levels([torch.zeros(2, DIM, 3, 4)], mask)
    tokens, position = torch.randn(2, 2, 12, DIM, generator=torch.Generator().manual_seed(0))
    return tokens, position, levels


def test_a_layer_by_hand():
    torch.manual_seed(0)
    encoder, (tokens, position, levels) = DenseEncoder(1, **SIZES), inputs()
    layer = encoder.layers[0]
    attended = layer.self_attention(tokens, position, None)
    expected = layer.feed_forward(layer.norm(tokens + attended))
    torch.testing.assert_close(encoder(tokens, position, levels), expected)


def test_padding_is_not_attended_to():
    torch.manual_seed(0)
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, :, 64:] = True
    encoder, (tokens, position, levels) = DenseEncoder(2, **SIZES), inputs(mask)
    other = tokens.masked_fill(levels.padding_mask[..., None], 100.0)
    inside = ~levels.padding_mask
    assert torch.equal(encoder(tokens, position, levels)[inside], encoder(other, position, levels)[inside])


def test_positions_are_scaled_by_the_tokens_of_each_layer():
    """A scale of zero leaves tokens alone; it is asked in every layer, for the tokens that enter it."""
    torch.manual_seed(0)
    seen = []

    class Zero(torch.nn.Module):
        def forward(self, tokens):
            seen.append(tokens)
            return torch.zeros_like(tokens)

    encoder, (tokens, position, levels) = DenseEncoder(2, **SIZES, position_scale=Zero()), inputs()
    scaled = encoder(tokens, position, levels)
    encoder.position_scale = None
    assert torch.equal(scaled, encoder(tokens, torch.zeros_like(position), levels))
    assert torch.equal(seen[0], tokens)
    assert torch.equal(seen[1], encoder.layers[0](tokens, torch.zeros_like(position), levels))
