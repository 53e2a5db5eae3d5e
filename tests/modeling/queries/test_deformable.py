# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR's queries, and what its decoder does with them."""

import pytest
import torch

from dino_d2.modeling import (
    BoxHead,
    ClassHead,
    DecoderInputs,
    DeformableDecoder,
    DetectorOutput,
    HungarianMatcher,
    LookForwardOnce,
    ObjectnessCriterion,
    ObjectnessProposalHead,
    OwnPosition,
    PatternQueries,
    ReferencePointQueries,
    TwoStageQueries,
)
from dino_d2.modeling.levels import flatten_maps, make_levels

DIM, CLASSES = 32, 5


@pytest.fixture
def memory_and_levels():
    torch.manual_seed(0)
    maps = [torch.rand(2, DIM, 8, 12), torch.rand(2, DIM, 4, 6)]
    return flatten_maps(maps), make_levels(maps, None)


def inputs_of(queries, memory, levels):
    return DecoderInputs(queries.content, queries.anchors, queries.positions, None, memory, memory, levels)


def make_decoder(**parts):
    defaults = {"box_update": None, "position_head": OwnPosition(), "norm": torch.nn.Identity()}
    decoder = DeformableDecoder(
        ClassHead(DIM, CLASSES),
        BoxHead(DIM, size=-2.0),
        num_layers=3,
        embed_dim=DIM,
        feedforward_dim=64,
        num_heads=4,
        num_levels=2,
        num_points=2,
        **(defaults | parts),
    )
    torch.nn.init.normal_(decoder.box_head.layers[-1].weight, std=0.1)
    return decoder


def test_points_follow_from_the_positions(memory_and_levels):
    source = ReferencePointQueries(7, DIM)
    queries = source(*memory_and_levels)
    assert queries.anchors.shape == (2, 7, 2)
    assert torch.equal(queries.anchors, source.reference_point(queries.positions).sigmoid())
    assert torch.equal(torch.cat([queries.positions, queries.content], -1)[0], source.embedding.weight)


def test_patterns_are_added_pattern_after_pattern(memory_and_levels):
    source = PatternQueries(4, DIM, num_patterns=3)
    queries = source(*memory_and_levels)
    assert queries.content.shape == (2, 12, DIM)
    assert torch.equal(queries.content[1, 4 + 2], source.content.weight[2] + source.patterns.weight[1])
    assert torch.equal(queries.anchors[:, 4:8], queries.anchors[:, :4])


def test_two_stage_ranks_by_the_first_class_and_learns_from_all_tokens(memory_and_levels):
    memory, levels = memory_and_levels
    source = TwoStageQueries(ObjectnessProposalHead(DIM, CLASSES), 6, DIM)
    torch.nn.init.normal_(source.proposal_head.class_head.weight)
    queries = source(memory.requires_grad_(), levels)
    proposals = queries.proposals
    tokens = memory.shape[1]
    assert proposals.logits.shape == (2, tokens, CLASSES)
    assert proposals.boxes.shape == (2, tokens, 4)
    for image in range(2):
        best = proposals.logits[image, :, 0].argsort(descending=True)[:6]
        assert proposals.index[image].tolist() == best.tolist()
        assert torch.equal(queries.anchors[image], proposals.boxes[image, best])
    assert not queries.anchors.requires_grad
    assert queries.content.shape == queries.positions.shape == (2, 6, DIM)
    fewer = source(memory[:, :4], make_levels([torch.rand(2, DIM, 2, 2)], None))
    assert fewer.content.shape == (2, 4, DIM)


def test_without_a_box_update_all_layers_correct_the_queries_own_points(memory_and_levels):
    memory, levels = memory_and_levels
    decoder = make_decoder()
    queries = ReferencePointQueries(7, DIM)(memory, levels)
    entered = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[2]))
    inputs = inputs_of(queries, memory, levels)
    _, boxes = decoder(inputs)
    assert all(torch.equal(anchors, entered[0]) for anchors in entered)
    assert boxes.shape == (3, 2, 7, 4)
    torch.nn.init.zeros_(decoder.box_head.layers[-1].weight)
    _, boxes = decoder(inputs)
    assert torch.allclose(boxes[..., :2], queries.anchors.expand(3, -1, -1, -1), atol=1e-4)
    assert torch.allclose(boxes[..., 2:], torch.tensor(-2.0).sigmoid().expand(3, 2, 7, 2))


def test_points_become_boxes_with_the_first_refinement(memory_and_levels):
    memory, levels = memory_and_levels
    decoder = make_decoder(box_update=LookForwardOnce())
    queries = ReferencePointQueries(7, DIM)(memory, levels)
    widths = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[2].shape[-1]))
    inputs = inputs_of(queries, memory, levels)
    _, boxes = decoder(inputs)
    assert widths == [2, 4, 4]
    boxes[1].sum().backward()
    assert decoder.layers[0].feed_forward.linear2.weight.grad is not None


def test_proposals_learn_one_class_whatever_the_labels(memory_and_levels):
    memory, levels = memory_and_levels
    source = TwoStageQueries(ObjectnessProposalHead(DIM, CLASSES), 6, DIM)
    criterion = ObjectnessCriterion(HungarianMatcher(giou_eps=0.0), giou_eps=0.0)
    queries = source(memory, levels)
    decoder = make_decoder(box_update=LookForwardOnce())
    inputs = inputs_of(queries, memory, levels)
    logits, boxes = decoder(inputs)

    output = DetectorOutput(logits, boxes, queries.anchors, queries.proposals)
    truth = [torch.tensor([[0.3, 0.4, 0.2, 0.2]]), torch.zeros(0, 4)]
    losses = [criterion(output, [torch.tensor([label]), torch.zeros(0, dtype=torch.int64)], truth) for label in (0, 3)]
    assert set(losses[0]) == {f"loss_{k}{s}" for k in ("class", "bbox", "giou") for s in ("", "_0", "_1", "_enc")}
    assert losses[0]["loss_class_enc"] == losses[1]["loss_class_enc"]
    assert losses[0]["loss_class"] != losses[1]["loss_class"]
