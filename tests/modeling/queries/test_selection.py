# SPDX-License-Identifier: Apache-2.0
"""Proposals and the three ways of query selection."""

import pytest
import torch

from dino_d2.modeling import MixedQuerySelection, ProposalHead, PureQuerySelection, StaticQueries
from dino_d2.modeling.levels import make_levels

DIM, CLASSES = 32, 5


@pytest.fixture
def memory_and_levels():
    torch.manual_seed(0)
    maps = [torch.rand(2, DIM, 8, 12), torch.rand(2, DIM, 4, 6)]
    levels = make_levels(maps, None)
    return torch.rand(2, 8 * 12 + 4 * 6, DIM), levels


def test_mixed_selection_takes_boxes_from_the_encoder_and_content_from_learning(memory_and_levels):
    memory, levels = memory_and_levels
    selection = MixedQuerySelection(ProposalHead(DIM, CLASSES), 7, DIM)
    queries = selection(memory.requires_grad_(), levels)
    assert torch.equal(queries.content[0], selection.content.weight)
    assert torch.equal(queries.content[0], queries.content[1])
    assert torch.equal(queries.anchors, queries.proposals.boxes)
    assert not queries.anchors.requires_grad
    assert queries.proposals.boxes.requires_grad


def test_pure_selection_takes_content_from_the_encoder_too(memory_and_levels):
    memory, levels = memory_and_levels
    queries = PureQuerySelection(ProposalHead(DIM, CLASSES), 7)(memory, levels)
    assert torch.equal(queries.content, queries.proposals.features)
    assert not queries.content.requires_grad


def test_static_queries_are_the_same_for_every_image(memory_and_levels):
    memory, levels = memory_and_levels
    queries = StaticQueries(7, DIM)(memory, levels)
    assert queries.proposals is None
    assert torch.equal(queries.content[0], queries.content[1])
    assert torch.equal(queries.anchors[0], queries.anchors[1])
    assert ((queries.anchors > 0) & (queries.anchors < 1)).all()


@pytest.mark.parametrize("selection", [MixedQuerySelection, PureQuerySelection])
def test_an_image_with_fewer_tokens_than_queries_gives_as_many_as_it_has(selection):
    levels = make_levels([torch.rand(1, DIM, 2, 3)], None)
    arguments = (900, DIM) if selection is MixedQuerySelection else (900,)
    queries = selection(ProposalHead(DIM, CLASSES), *arguments)(torch.rand(1, 6, DIM), levels)
    assert queries.content.shape == (1, 6, DIM)
    assert queries.anchors.shape == (1, 6, 4)
