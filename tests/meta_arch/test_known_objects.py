# SPDX-License-Identifier: Apache-2.0
"""Known objects: which of them the decoder receives and which losses they have."""

import pytest
import torch

from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.meta_arch import (
    KnownAtRandom,
    KnownClasses,
    VisibleQueries,
    known_classes,
    unknown_classes,
)

from .conftest import CLASSES, QUERIES


def test_the_split_of_table_3():
    known, unknown = known_classes(80, 0.7), unknown_classes(80, 0.7)
    assert (len(known), len(unknown)) == (56, 24)
    assert sorted(known + unknown) == list(range(80))
    assert known == known_classes(80, 0.7)
    assert known != known_classes(80, 0.7, seed=1)
    assert len(known_classes(80, 0.5)) == 40
    assert KnownClasses([1, 3])(torch.tensor([0, 1, 2, 3])).tolist() == [False, True, False, True]
    torch.manual_seed(0)
    shares = {KnownAtRandom()(torch.zeros(50)).float().mean().item() for _ in range(50)}
    assert min(shares) < 0.2
    assert max(shares) > 0.8


def test_matching_queries_see_known_objects_and_nobody_sees_padding():
    labels, boxes = [torch.tensor([1, 2]), torch.tensor([3])], [torch.full((2, 4), 0.5), torch.full((1, 4), 0.5)]
    queries = VisibleQueries(*Denoising(CLASSES, FixedGroups(1))(labels, boxes))
    blocked = queries.attention_mask(3)
    assert blocked.shape == (2, 5, 5)
    assert not blocked[0].any()
    assert blocked[1, :, 1].all()  # the second image has one object and one padding slot
    assert not blocked[1, :, [0, 2, 3, 4]].any()


def test_known_objects_are_rebuilt_and_take_no_part_in_the_matching(make_known, make_input):
    model = make_known(known=KnownClasses([0, 1])).train()
    image = make_input(objects=4)
    image["instances"].gt_classes = torch.tensor([0, 2, 1, 4])
    seen = {}
    matcher = model.criterion.matcher
    forward = matcher.forward
    matcher.forward = lambda logits, boxes, labels, targets: (
        seen.update(labels=labels, slots=logits.shape[2]) or forward(logits, boxes, labels, targets)
    )
    losses = model([image])
    assert seen["labels"][0].tolist() == [2, 4]
    assert seen["slots"] == QUERIES
    layers = ["", "_0", "_enc", "_dn", "_dn_0"]
    assert losses.keys() == {f"loss_{kind}{layer}" for kind in ("class", "bbox", "giou") for layer in layers}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.zero_grad()
    for classes in ([0, 1, 2, 3, 4], []):  # nothing left to match, and nothing known
        model.known = KnownClasses(classes)
        losses = model([image])
        assert all(value.isfinite() for value in losses.values())


def test_the_losses_are_those_of_the_parts_apart(make_known, make_input):
    """The denoising part's losses by the ordinary criterion, of a model that was given known objects alone."""
    model = make_known(known=KnownClasses([0, 1])).train()
    image = make_input(objects=4)
    image["instances"].gt_classes = torch.tensor([0, 2, 1, 4])
    outputs = []
    model.detector.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[2], output)))
    losses = model([image])
    denoising, output = outputs[0]
    truth = image["instances"]
    boxes = torch.cat(
        [truth.gt_boxes.tensor[:, :2] + truth.gt_boxes.tensor[:, 2:], truth.gt_boxes.tensor[:, 2:] * 2], dim=1
    )
    boxes[:, 2:] -= truth.gt_boxes.tensor[:, :2] * 2
    boxes = boxes / 2 / torch.tensor([128, 96, 128, 96])
    for rows, names, of in (([0, 2], "_dn", denoising), ([1, 3], "", None)):
        expected = model.criterion(
            output if of is not None else output._replace(logits=output.logits[:, :, 2:], boxes=output.boxes[:, :, 2:]),
            [truth.gt_classes[rows]],
            [boxes[rows]],
            of,
        )
        for kind in ("class", "bbox", "giou"):
            name = f"loss_{kind}{names}"
            assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-5)


def test_a_known_object_changes_what_is_found_and_only_in_its_image(make_known, make_input):
    model = make_known(known=KnownClasses([0])).eval()
    images = [make_input(seed=1), make_input(seed=2)]
    plain = model(images)
    known = images[0]["instances"]
    together = model([images[0] | {"known_objects": known}, images[1]])
    assert not torch.allclose(together[0]["instances"].scores, plain[0]["instances"].scores, atol=1e-4)
    assert torch.allclose(together[1]["instances"].scores, plain[1]["instances"].scores, atol=1e-5)
    alone = model([images[0] | {"known_objects": known}])
    assert torch.allclose(together[0]["instances"].scores, alone[0]["instances"].scores, atol=1e-5)
    none = model([images[0] | {"known_objects": known[:0]}])
    assert torch.equal(none[0]["instances"].scores, model([images[0]])[0]["instances"].scores)
    assert together[0]["queries"].boxes.shape == (QUERIES, 4)
