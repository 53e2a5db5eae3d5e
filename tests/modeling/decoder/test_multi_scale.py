# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR's decoder over several levels: a softmax for each, mixed by weights of the query."""

import torch

from dino_d2.layers.conditional_attention import ConditionalCrossAttention
from dino_d2.modeling.decoder.conditional import ConditionalDecoderLayer
from dino_d2.modeling.decoder.multi_scale import MultiScaleDecoderLayer
from dino_d2.modeling.levels import make_levels

DIM, QUERIES = 16, 5
SIZES = {"embed_dim": DIM, "feedforward_dim": 32, "num_heads": 2}


def layers(num_levels):
    """A multi-scale layer, and a plain one with its weights."""
    torch.manual_seed(0)
    several = MultiScaleDecoderLayer(ConditionalCrossAttention(DIM, 2), num_levels, **SIZES)
    one = ConditionalDecoderLayer(ConditionalCrossAttention(DIM, 2), **SIZES)
    one.load_state_dict({k: v for k, v in several.state_dict().items() if not k.startswith("level_weights")})
    return several, one


def inputs(*shapes):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 2, QUERIES, DIM, generator=generator)
    memory, position = torch.randn(2, 2, sum(h * w for h, w in shapes), DIM, generator=generator)
    return *queries, memory, position, make_levels([torch.zeros(2, DIM, *shape) for shape in shapes], None)


def test_one_level_is_a_plain_layer():
    several, one = layers(num_levels=1)
    given = inputs((3, 4))
    torch.testing.assert_close(several(*given, None), one(*given, None))


def test_a_query_that_counts_one_level_alone_sees_nothing_of_the_others():
    several, one = layers(num_levels=2)
    torch.nn.init.zeros_(several.level_weights.weight)
    several.level_weights.bias.data = torch.tensor([0.0, -1e4])
    x, query_position, query_sine, memory, position, levels = inputs((3, 4), (2, 2))
    found = several(x, query_position, query_sine, memory, position, levels, None)
    alone = make_levels([torch.zeros(2, DIM, 3, 4)], None)
    expected = one(x, query_position, query_sine, memory[:, :12], position[:, :12], alone, None)
    torch.testing.assert_close(found, expected)


def test_equal_weights_give_the_mean_of_the_levels():
    several, _ = layers(num_levels=2)
    x, query_position, query_sine, memory, position, levels = inputs((3, 4), (2, 2))
    projected = several.cross_attention.project(x, query_position, query_sine, memory, position)
    weights = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    first, second, both = (several.attend_levels(*projected, levels, w.expand(2, QUERIES, 2)) for w in weights)
    torch.testing.assert_close(both, (first + second) / 2)
