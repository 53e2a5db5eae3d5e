# SPDX-License-Identifier: Apache-2.0
"""Necks: which map each level comes from, and its size."""

import pytest
import torch

from dino_d2.modeling import ChannelMapper, Projection

STAGES = {"res3": 8, "res4": 16, "res5": 24}


def maps(height=48, width=80):
    return {
        name: torch.rand(2, channels, height >> i, width >> i) for i, (name, channels) in enumerate(STAGES.items(), 3)
    }


def test_levels_are_those_of_the_stages_and_half_of_the_last_again():
    levels = ChannelMapper(STAGES, embed_dim=32, num_levels=5, norm_groups=8)(maps())
    assert [tuple(level.shape) for level in levels] == [
        (2, 32, *size) for size in ((6, 10), (3, 5), (1, 2), (1, 1), (1, 1))
    ]


def test_the_first_extra_level_sees_the_stage_and_not_its_projection():
    neck, features = ChannelMapper(STAGES, embed_dim=32, num_levels=4, norm_groups=8), maps()
    before = neck(features)
    torch.nn.init.zeros_(neck.projections[-1][0].weight)
    after = neck(features)
    assert not torch.equal(after[2], before[2])
    assert torch.equal(after[3], before[3])
    assert torch.equal(after[3], neck.extra_levels[0](features["res5"]))


def test_fewer_levels_than_stages_are_refused():
    with pytest.raises(ValueError, match="num_levels 2 is below the number of backbone stages 3"):
        ChannelMapper(STAGES, num_levels=2)


def test_a_projection_takes_its_stage_alone():
    neck, features = Projection({"res5": 24}, embed_dim=32), maps()
    (level,) = neck(features)
    expected = torch.einsum("bchw,dc->bdhw", features["res5"], neck.projection.weight[..., 0, 0])
    torch.testing.assert_close(level, expected + neck.projection.bias[:, None, None])
