# SPDX-License-Identifier: Apache-2.0
"""Proposals of the encoder: which tokens may propose, which are selected, and which are trained."""

import math

import pytest
import torch

from dino_d2.modeling import ObjectnessProposalHead, ProposalHead
from dino_d2.modeling.levels import make_levels

DIM, CLASSES = 32, 5


@pytest.fixture
def memory_and_levels():
    torch.manual_seed(0)
    maps = [torch.rand(2, DIM, 8, 12), torch.rand(2, DIM, 4, 6)]
    return torch.rand(2, 8 * 12 + 4 * 6, DIM), make_levels(maps, None)


def test_anchors_are_pixel_centres_with_sides_by_level(memory_and_levels):
    _, levels = memory_and_levels
    logits, usable = ProposalHead(DIM, CLASSES).token_anchors(levels)
    anchors = logits.sigmoid()
    assert usable.all()
    assert anchors[0, 0].tolist() == pytest.approx([0.5 / 12, 0.5 / 8, 0.05, 0.05], abs=1e-6)
    assert anchors[1, 8 * 12 + 7].tolist() == pytest.approx([1.5 / 6, 1.5 / 4, 0.1, 0.1], abs=1e-6)


def test_tokens_near_the_border_and_in_padding_are_unusable():
    mask = torch.zeros(1, 400, 800, dtype=torch.bool)
    mask[:, :, 400:] = True
    levels = make_levels([torch.rand(1, DIM, 50, 100)], mask)
    logits, usable = ProposalHead(DIM, CLASSES).token_anchors(levels)
    usable = usable.view(50, 100)
    assert not usable[:, 50:].any()
    assert usable[1:-1, 1:49].all()
    assert not usable[0].any()  # half a pixel of fifty is 0.01 of the image
    assert math.isinf(logits.view(50, 100, 4)[0, 0, 0])


def test_proposals_are_the_tokens_with_the_highest_class_logit(memory_and_levels):
    memory, levels = memory_and_levels
    head = ProposalHead(DIM, CLASSES)
    proposals = head(memory, levels, 7)
    scores = head.class_head(head.norm(head.project(memory))).amax(-1)
    for image in range(2):
        assert proposals.index[image].tolist() == scores[image].argsort(descending=True)[:7].tolist()
    assert torch.allclose(proposals.logits.amax(-1), scores.gather(1, proposals.index), atol=1e-6)


def test_objectness_is_the_first_logit_and_every_token_is_trained(memory_and_levels):
    memory, levels = memory_and_levels
    head = ObjectnessProposalHead(DIM, CLASSES)
    torch.nn.init.normal_(head.class_head.weight)
    proposals = head(memory, levels, 7)
    assert proposals.logits.shape == (2, memory.shape[1], CLASSES)
    assert proposals.boxes.shape == (2, memory.shape[1], 4)
    for image in range(2):
        best = proposals.logits[image, :, 0].argsort(descending=True)[:7]
        assert proposals.index[image].tolist() == best.tolist()
