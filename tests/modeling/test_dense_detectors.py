# SPDX-License-Identifier: Apache-2.0
"""The single-scale detectors as wholes, and the parts of them that no reference vector reaches."""

import pytest
import torch

from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.modeling import BoxHead
from tests.paths import CONFIGS

MODELS = CONFIGS / "common" / "models"
DIM, CLASSES, QUERIES, LAYERS = 32, 5, 12, 2
PLAIN = ("detr", "conditional_detr", "anchor_detr", "dab_detr")
DENOISED = ("dn_detr", "dn_anchor_detr", "dn_vanilla_detr")


def small_config(name):
    model = LazyConfig.load(str(MODELS / f"{name}_r50.py")).model
    detector = model.detector
    detector.num_classes, detector.embed_dim = CLASSES, DIM
    detector.backbone.update(name="resnet10t", pretrained=False, freeze_stages=0)
    detector.backbone.options.channels = [16, 32, 48, 64]
    detector.neck.in_channels = {"res5": 64}
    for part in (detector.encoder, detector.decoder):
        part.update(num_layers=LAYERS, feedforward_dim=64, num_heads=4, dropout=0.0)
    if "anchor" in name:
        detector.neck.norm_groups = 8
        detector.queries.update(num_points=QUERIES // 3, num_patterns=3)
    else:
        detector.queries.num_queries = QUERIES
    return model


@pytest.fixture
def make():
    """Builds a detector of this name, small; overrides are set in its config."""

    def make_model(name, **overrides):
        torch.manual_seed(0)
        config = small_config(name)
        for key, value in overrides.items():
            config.detector[key].update(value)
        model = instantiate(config)
        # Heads that start at zero would hide most mistakes.
        for module in model.modules():
            if isinstance(module, BoxHead):
                torch.nn.init.normal_(module.layers[-1].weight, std=0.1)
        return model

    return make_model


def noised(shift=0.0):
    boxes = [torch.tensor([[0.3 + shift, 0.4, 0.2, 0.2], [0.7, 0.6, 0.3, 0.2]]), torch.tensor([[0.5, 0.5, 0.4, 0.4]])]
    return Denoising(CLASSES, FixedGroups(2))(
        [torch.tensor([0, 1]), torch.tensor([2])], boxes, torch.Generator().manual_seed(1)
    )


@pytest.mark.parametrize("name", PLAIN + DENOISED)
def test_every_parameter_learns_whatever_the_batch_holds(make, make_input, name):
    """Of no image, of some and of all; else one rank would wait for gradients that another never sends."""
    model = make(name).train()
    for counts in ((2, 3), (0, 2), (0, 0)):
        model.zero_grad()
        losses = model([make_input(96, 128, counts[0]), make_input(64, 160, counts[1], seed=1)])
        layers = ["", "_0"] + (["_dn", "_dn_0"] if name in DENOISED else [])
        assert losses.keys() == {f"loss_{kind}{layer}" for kind in ("class", "bbox", "giou") for layer in layers}
        assert all(value.isfinite() for value in losses.values())
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", PLAIN + DENOISED)
def test_an_image_gets_the_same_boxes_alone_and_in_any_batch(make, make_input, name):
    model = make(name).eval()
    inputs = [make_input(96, 128), make_input(40, 40, seed=3), make_input(96, 128, seed=2)]
    for image, result in zip(inputs, model(inputs), strict=True):
        alone = model([image])[0]["instances"]
        assert len(alone) > 0
        assert torch.allclose(result["instances"].scores, alone.scores, atol=1e-5)


@pytest.mark.parametrize("name", ["detr", "conditional_detr", "dab_detr"])
def test_what_the_feature_maps_hold_in_padding_changes_nothing(make, name):
    detector = make(name).eval().detector
    (features,) = detector.neck(detector.backbone(torch.rand(2, 3, 128, 160)))
    mask = torch.zeros(2, 128, 160, dtype=torch.bool)
    mask[1, 64:], mask[1, :, 96:] = True, True
    padding = torch.nn.functional.interpolate(mask[:, None].float(), features.shape[-2:]).bool()
    results = []
    for junk in (0.0, 100.0):
        detector.neck.forward = lambda _, junk=junk: [features.masked_fill(padding, junk)]
        results.append(detector(torch.rand(2, 3, 128, 160), mask))
    assert torch.equal(results[0].boxes, results[1].boxes)
    assert torch.equal(results[0].logits, results[1].logits)


@pytest.mark.parametrize("name", PLAIN)
def test_an_all_clear_mask_is_the_same_as_none(make, name):
    detector = make(name).eval().detector
    images = torch.rand(2, 3, 96, 128)
    masked = detector(images, torch.zeros(2, 96, 128, dtype=torch.bool))
    assert torch.allclose(masked.boxes, detector(images).boxes, atol=1e-6)


@pytest.mark.parametrize("name", DENOISED)
def test_no_ground_truth_leaks_to_the_matching_part(make, name):
    detector = make(name).eval().detector
    images = torch.rand(2, 3, 96, 128)
    first, second = (detector(images, denoising_queries=noised(shift)) for shift in (0.0, 0.2))
    slots = noised().target.shape[1]
    assert torch.equal(first.logits[:, :, slots:], second.logits[:, :, slots:])
    assert torch.equal(first.boxes[:, :, slots:], second.boxes[:, :, slots:])
    assert not torch.allclose(first.boxes[:, :, :slots], second.boxes[:, :, :slots], atol=1e-6)
    assert torch.allclose(detector(images).logits, first.logits[:, :, slots:], atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_layers_computed_again_in_the_backward_pass_give_the_same(make, name):
    gradients = []
    for checkpointing in (False, True):
        option = {"activation_checkpointing": checkpointing}
        model = make(name, encoder=option, decoder=option).train()
        output = model.detector(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)))
        (output.logits.sum() + output.boxes.sum()).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(g, gradients[1][n], atol=1e-5, rtol=1e-4) for n, g in gradients[0].items())


def test_a_dilated_last_stage_keeps_the_stride(make):
    detector = make("detr", backbone={"options": {"channels": [16, 32, 48, 64], "output_stride": 16}}).detector
    assert detector.backbone(torch.rand(1, 3, 96, 128))["res5"].shape == (1, 64, 6, 8)


@pytest.mark.parametrize(("name", "eps"), [*((name, 0.0) for name in PLAIN[:3]), ("dab_detr", 1e-6), ("dn_detr", 1e-6)])
def test_the_overlap_has_the_epsilon_of_the_authors(name, eps):
    criterion = instantiate(LazyConfig.load(str(MODELS / f"{name}_r50.py")).model.criterion)
    assert criterion.giou_eps == criterion.matcher.giou_eps == eps
