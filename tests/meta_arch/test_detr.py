# SPDX-License-Identifier: Apache-2.0
"""The meta-architecture: dicts in, losses or Instances out."""

import torch

from dino_d2.modeling import MixedQuerySelection, ProposalHead


def test_training_gives_named_losses_and_every_parameter_a_gradient(make_model, make_input):
    model = make_model().train()
    losses = model([make_input(96, 128, 2), make_input(64, 160, 3, seed=1)])
    layers = ["", "_0", "_enc", "_dn", "_dn_0"]
    assert losses.keys() == {f"loss_{kind}{layer}" for kind in ("class", "bbox", "giou") for layer in layers}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_images_without_objects_use_the_same_parameters(make_model, make_input):
    """Otherwise one rank would wait for gradients that another never sends."""
    model = make_model().train()
    for batch in ([make_input(objects=0), make_input(objects=2)], [make_input(objects=0), make_input(objects=0)]):
        model.zero_grad()
        losses = model(batch)
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_an_image_gets_the_same_boxes_alone_and_in_any_batch(make_model, make_input):
    model = make_model().eval()
    inputs = [make_input(96, 128), make_input(160, 64, seed=1), make_input(96, 128, seed=2), make_input(40, 40, seed=3)]
    together = model(inputs)
    for image, result in zip(inputs, together, strict=True):
        alone = model([image])[0]["instances"]
        assert torch.allclose(result["instances"].pred_boxes.tensor, alone.pred_boxes.tensor, atol=1e-3)
        assert torch.allclose(result["instances"].scores, alone.scores, atol=1e-5)


def test_detections_come_in_output_pixels_best_first(make_model, make_input):
    model = make_model().eval()
    image = make_input(96, 128)
    small = model([image])[0]["instances"]
    large = model([image | {"height": 192, "width": 384}])[0]["instances"]
    assert large.image_size == (192, 384)
    scale = torch.tensor([3.0, 2.0, 3.0, 2.0])
    assert torch.allclose(large.pred_boxes.tensor, small.pred_boxes.tensor * scale, atol=1e-2)
    assert len(small) == 30
    assert (small.scores.diff() <= 0).all()
    assert (small.pred_boxes.tensor[:, 2] <= 128).all()


def test_ground_truth_is_normalised_by_the_image_without_padding(make_model, make_input):
    model = make_model().train()
    seen = {}
    model.criterion.forward = lambda output, labels, boxes, *others: seen.update(boxes=boxes) or {}
    image = make_input(64, 96, objects=1)
    model([image, make_input(128, 128)])
    x0, y0, x1, y1 = image["instances"].gt_boxes.tensor[0].tolist()
    expected = torch.tensor([(x0 + x1) / 2 / 96, (y0 + y1) / 2 / 64, (x1 - x0) / 96, (y1 - y0) / 64])
    assert torch.allclose(seen["boxes"][0][0], expected)


def test_padding_is_zero_after_normalisation_and_marked(make_model):
    model = make_model()
    images = [torch.ones(3, 4, 6), torch.ones(3, 5, 3)]
    batch, mask = model.pad(images)
    assert batch.shape == (2, 3, 5, 6)
    assert batch[0, :, 4:].abs().sum() == batch[1, :, :, 3:].abs().sum() == 0
    assert mask.sum((1, 2)).tolist() == [6, 15]
    assert model.pad(images[:1])[1] is None


def test_small_images_detect_and_train(make_model, make_input):
    model = make_model(queries=MixedQuerySelection(ProposalHead(32, 5), 300, 32))
    sum(model.train()([make_input(32, 40, 2), make_input(48, 32, 1)]).values()).backward()
    assert len(model.eval()([make_input(24, 24)])[0]["instances"]) == 30
