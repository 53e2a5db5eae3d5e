# SPDX-License-Identifier: Apache-2.0
"""The batched losses against slow, obvious ones, layer by layer and image by image."""

import pytest
import torch
import torchvision

from dino_d2.denoising import ContrastiveDenoising, FixedGroups
from dino_d2.layers import cxcywh_to_xyxy
from dino_d2.modeling import DetectorOutput, HungarianMatcher, SetCriterion
from dino_d2.modeling.contracts import Proposals

LAYERS, CLASSES, QUERIES = 3, 6, 12


@pytest.fixture
def problem():
    torch.manual_seed(0)
    counts = [3, 0, 5]
    labels = [torch.randint(CLASSES, (n,)) for n in counts]
    boxes = [torch.rand(n, 4) * 0.4 + 0.2 for n in counts]
    denoising = ContrastiveDenoising(CLASSES, FixedGroups(2))(labels, boxes)
    slots = denoising.target.shape[1]
    logits = torch.randn(LAYERS, len(counts), slots + QUERIES, CLASSES, requires_grad=True)
    predicted = (torch.rand(LAYERS, len(counts), slots + QUERIES, 4) * 0.4 + 0.2).requires_grad_()
    proposals = Proposals(
        index=None,
        features=None,
        logits=torch.randn(len(counts), QUERIES, CLASSES, requires_grad=True),
        anchors=None,
        boxes=(torch.rand(len(counts), QUERIES, 4) * 0.4 + 0.2).requires_grad_(),
    )
    return DetectorOutput(logits, predicted, None, proposals), labels, boxes, denoising


def slow_losses(logits, predicted, pairs, labels, boxes, num_boxes):
    """Losses of one layer: pairs is one (queries, targets) an image."""
    one_hot = torch.zeros_like(logits)
    l1 = giou = 0.0
    for image, (queries, targets) in enumerate(pairs):
        for query, target in zip(queries.tolist(), targets.tolist(), strict=True):
            one_hot[image, query, labels[image][target]] = 1.0
            box, truth = predicted[image, query], boxes[image][target]
            l1 += (box - truth).abs().sum()
            overlap = torchvision.ops.generalized_box_iou(cxcywh_to_xyxy(box)[None], cxcywh_to_xyxy(truth)[None])
            giou += 1 - overlap[0, 0]
    focal = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha=0.25, gamma=2, reduction="sum")
    return {"class": focal / num_boxes, "bbox": 5 * l1 / num_boxes, "giou": 2 * giou / num_boxes}


def matched_pairs(logits, predicted, labels, boxes):
    matches = HungarianMatcher()(logits[None], predicted[None], labels, boxes)
    return [
        (matches.query[0][matches.image == image], matches.target[0][matches.image == image])
        for image in range(len(labels))
    ]


def test_every_loss_agrees_with_the_slow_one(problem):
    output, labels, boxes, denoising = problem
    losses = SetCriterion(HungarianMatcher())(output, labels, boxes, denoising)
    slots = denoising.target.shape[1]
    expected = {}
    for layer, suffix in enumerate(["_0", "_1", ""]):
        logits, predicted = output.logits[layer, :, slots:], output.boxes[layer, :, slots:]
        slow = slow_losses(logits, predicted, matched_pairs(logits, predicted, labels, boxes), labels, boxes, 8)
        expected |= {f"loss_{kind}{suffix}": value for kind, value in slow.items()}
        positives = [(p.nonzero()[:, 0], t[p]) for p, t in zip(denoising.positive, denoising.target, strict=True)]
        slow = slow_losses(
            output.logits[layer, :, :slots], output.boxes[layer, :, :slots], positives, labels, boxes, 8 * 2
        )
        expected |= {f"loss_{kind}_dn{suffix}": value for kind, value in slow.items()}
    logits, predicted = output.proposals.logits, output.proposals.boxes
    slow = slow_losses(logits, predicted, matched_pairs(logits, predicted, labels, boxes), labels, boxes, 8)
    expected |= {f"loss_{kind}_enc": value for kind, value in slow.items()}

    assert losses.keys() == expected.keys()  # a dropped auxiliary loss would show here
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=2e-5), name


def test_proposal_weight_scales_the_proposals_alone(problem):
    output, labels, boxes, denoising = problem
    full = SetCriterion(HungarianMatcher())(output, labels, boxes, denoising)
    half = SetCriterion(HungarianMatcher(), proposal_weight=0.5)(output, labels, boxes, denoising)
    for name in full:
        factor = 0.5 if name.endswith("_enc") else 1.0
        assert half[name].item() == pytest.approx(factor * full[name].item())


def test_losses_fall_along_their_gradient(problem):
    """A wrong sign anywhere would make a small step uphill."""
    output, labels, boxes, denoising = problem
    criterion = SetCriterion(HungarianMatcher())
    leaves = [output.logits, output.boxes, output.proposals.logits, output.proposals.boxes]
    for name, value in criterion(output, labels, boxes, denoising).items():
        gradients = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        moved = [
            leaf if grad is None else leaf.detach() - 1e-3 * grad for leaf, grad in zip(leaves, gradients, strict=True)
        ]
        step = DetectorOutput(moved[0], moved[1], None, output.proposals._replace(logits=moved[2], boxes=moved[3]))
        assert criterion(step, labels, boxes, denoising)[name] < value, name


def test_a_batch_without_objects_pushes_scores_down_and_leaves_boxes_alone():
    labels = [torch.zeros(0, dtype=torch.int64)] * 2
    boxes = [torch.zeros(0, 4)] * 2
    denoising = ContrastiveDenoising(CLASSES)(labels, boxes)
    logits = torch.randn(LAYERS, 2, QUERIES, CLASSES, requires_grad=True)
    predicted = torch.rand(LAYERS, 2, QUERIES, 4, requires_grad=True)
    losses = SetCriterion(HungarianMatcher())(DetectorOutput(logits, predicted, None, None), labels, boxes, denoising)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_class"] > 0
    assert losses["loss_bbox"] == losses["loss_giou"] == losses["loss_class_dn"] == 0
    assert (logits.grad > 0).all()
    assert (predicted.grad == 0).all()  # zero, not missing: every rank has the same graph


def test_a_prediction_that_is_not_a_number_shows_in_the_loss(problem):
    output, labels, boxes, denoising = problem
    logits = output.logits.detach().clone()
    logits[-1, 0, -1, 0] = float("nan")
    losses = SetCriterion(HungarianMatcher())(output._replace(logits=logits), labels, boxes, denoising)
    assert losses["loss_class"].isnan()
    assert losses["loss_class_0"].isfinite()


def test_denoising_losses_of_a_crowded_image_are_the_mean_over_the_objects_that_have_slots():
    labels, boxes = [torch.zeros(300, dtype=torch.int64)], [torch.full((300, 4), 0.5)]
    denoising = ContrastiveDenoising(CLASSES, FixedGroups(2), max_queries=400)(labels, boxes)  # 100 of the objects
    assert denoising.num_positives == 200
    slots = denoising.target.shape[1]
    logits = torch.zeros(1, 1, slots + QUERIES, CLASSES)
    predicted = torch.full((1, 1, slots + QUERIES, 4), 0.5) + torch.tensor([0.1, 0, 0, 0])
    losses = SetCriterion(HungarianMatcher())(DetectorOutput(logits, predicted, None, None), labels, boxes, denoising)
    assert losses["loss_bbox_dn"].item() == pytest.approx(5 * 0.1, rel=1e-5)
