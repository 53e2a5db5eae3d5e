# SPDX-License-Identifier: Apache-2.0
"""The deformable encoder: what its layers see, and what padding and recomputation change."""

import pytest
import torch

from dino_d2.layers import FeedForward
from dino_d2.modeling import DeformableEncoder
from dino_d2.modeling.levels import make_levels

DIM = 16
SIZES = {"embed_dim": DIM, "feedforward_dim": 32, "num_heads": 2, "num_levels": 2, "num_points": 2}


def inputs(mask=None, batch=1):
    generator = torch.Generator().manual_seed(0)
    levels = make_levels([torch.zeros(batch, DIM, 8, 12), torch.zeros(batch, DIM, 4, 6)], mask)
    tokens, position = torch.randn(2, batch, 8 * 12 + 4 * 6, DIM, generator=generator)
    return tokens, position, levels


def test_a_feed_forward_by_hand():
    torch.manual_seed(0)
    network, x = FeedForward(DIM, 32), torch.randn(3, 5, DIM)
    hidden = (x @ network.linear1.weight.T + network.linear1.bias).relu()
    expected = network.norm(x + hidden @ network.linear2.weight.T + network.linear2.bias)
    torch.testing.assert_close(network(x), expected)


def test_an_activation_with_parameters_is_each_layers_own():
    activation = torch.nn.PReLU()
    first, second = (FeedForward(DIM, 32, activation=activation) for _ in range(2))
    assert first.activation is not second.activation
    x = torch.randn(2, DIM)
    hidden = torch.nn.functional.prelu(first.linear1(x), first.activation.weight)
    torch.testing.assert_close(first(x), first.norm(x + first.linear2(hidden)))


def test_no_layers_change_nothing():
    tokens, position, levels = inputs()
    assert torch.equal(DeformableEncoder(0, **SIZES)(tokens, position, levels), tokens)


def test_a_token_reaches_its_neighbourhood_on_every_level():
    torch.manual_seed(0)
    encoder, (tokens, position, levels) = DeformableEncoder(1, **SIZES), inputs()
    tokens.requires_grad_()
    token = 4 * 12 + 6  # in the middle of the finer level
    encoder(tokens, position, levels)[0, token].sum().backward()
    reached = tokens.grad[0].ne(0).any(-1)
    assert reached[token]
    fine, coarse = reached[: 8 * 12].view(8, 12), reached[8 * 12 :].view(4, 6)
    assert coarse.any()
    assert not fine[0].any(), "points lie within two cells at first"
    assert not fine[:, 0].any()


def test_padding_is_not_read():
    torch.manual_seed(0)
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 48:] = True
    encoder, (tokens, position, levels) = DeformableEncoder(2, **SIZES), inputs(mask, batch=2)
    other = tokens.masked_fill(levels.padding_mask[..., None], 100.0)
    inside = ~levels.padding_mask
    first, second = (encoder(x, position, levels)[inside] for x in (tokens, other))
    assert torch.equal(first, second)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_layers_have_the_same_gradients(dropout):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = DeformableEncoder(2, **SIZES, dropout=dropout, activation_checkpointing=checkpointing)
        tokens, position, levels = inputs()
        encoder(tokens.requires_grad_(), position, levels).square().sum().backward()
        gradients.append([tokens.grad, *(p.grad for p in encoder.parameters())])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*gradients, strict=True))
