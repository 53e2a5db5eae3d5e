# SPDX-License-Identifier: Apache-2.0
"""Conditional attention and what DAB-DETR adds to it."""

import pytest
import torch

from dino_d2.layers import SizeModulation
from dino_d2.layers.conditional_attention import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    FirstConditionalCrossAttention,
)


@pytest.mark.parametrize("attention", [ConditionalSelfAttention, ConditionalCrossAttention])
def test_conditional_attention_starts_as_the_authors(attention):
    out = attention(32, 4).out_proj  # of nn.MultiheadAttention there, but for Xavier weights
    assert out.bias.eq(0).all()
    assert out.weight.abs().max() <= (6 / (32 + 32)) ** 0.5


def test_first_layer_adds_positions_to_the_content_of_queries_and_keys():
    """With projections of the position at zero the first layer is as any other."""
    torch.manual_seed(0)
    first, later = FirstConditionalCrossAttention(16, 2), ConditionalCrossAttention(16, 2)
    later.load_state_dict(first.state_dict(), strict=False)
    x, position, sine = torch.randn(3, 1, 5, 16)
    memory, memory_position = torch.randn(2, 1, 7, 16)
    arguments = (x, position, sine, memory, memory_position)
    assert not torch.allclose(first(*arguments), later(*arguments), atol=1e-4)
    for attention in (first, later):
        torch.nn.init.zeros_(attention.key_position.weight)
        torch.nn.init.zeros_(attention.key_position.bias)
    torch.nn.init.zeros_(first.query_position.weight)
    torch.nn.init.zeros_(first.query_position.bias)
    torch.testing.assert_close(first(*arguments), later(*arguments))


def test_modulation_by_hand():
    """Twice the predicted width of an anchor halves nothing in y; zero content predicts half an image each way."""
    modulation = SizeModulation(8)
    for parameter in modulation.parameters():
        torch.nn.init.zeros_(parameter)
    sine = torch.ones(1, 1, 8)
    anchors = torch.tensor([[[0.5, 0.5, 0.25, 0.1]]])
    out = modulation(sine, torch.zeros(1, 1, 8), anchors)[0, 0]
    assert out.tolist() == pytest.approx([5.0] * 4 + [2.0] * 4)  # y features by 0.5 / h, x features by 0.5 / w
