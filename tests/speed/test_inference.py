# SPDX-License-Identifier: Apache-2.0
"""The copy for detection alone: the same detections, and nearly the same in half precision."""

import copy as copying
import pickle

import pytest
import torch
from torch import nn

from dino_d2.modeling import BoxHead, ClassHead
from dino_d2.speed import for_inference
from dino_d2.speed.frozen_batch_norm import NormedConv2d
from dino_d2.speed.linear import use_plain_linear
from dino_d2.speed.prepacked import Prepacked, PrepackedConv2d, PrepackedLinear

on_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
with_bfloat16 = pytest.mark.skipif(
    not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="oneDNN has no bfloat16 for this processor",
)


@pytest.fixture
def model(make_model):
    model = make_model(denoising=False)
    for module in model.modules():
        if hasattr(module, "running_var") and not isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return model.train()


def test_detections_are_the_same_and_the_model_is_left_alone(model, make_input):
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with use_plain_linear():  # nothing is prepacked, so the same operators run
        copy = for_inference(model)
    assert model.training
    assert not copy.training
    assert not any(p.requires_grad for p in copy.parameters())
    assert not any(isinstance(module, NormedConv2d) for module in copy.modules())
    inputs = [make_input(64, 96)]
    (expected,), (found,) = model.eval()(inputs), copy(inputs)
    assert torch.equal(found["instances"].scores, expected["instances"].scores)
    assert torch.equal(found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def box_heads(model):
    return {child for module in model.modules() if isinstance(module, BoxHead) for child in module.modules()}


@on_onednn
@pytest.mark.parametrize("batch", [1, 3])
def test_prepacked_weights_change_rounding_alone(model, batch):
    copy = for_inference(model)
    assert any(isinstance(module, PrepackedLinear) for module in copy.modules())
    images = torch.randn(batch, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = model.eval().detector.encode(images), copy.detector.encode(images)
    torch.testing.assert_close(found.memory, expected.memory, rtol=1e-4, atol=1e-5)


@on_onednn
def test_a_prepacked_copy_can_be_copied_and_pickled(model):
    once = for_inference(model)
    names = {name for name, module in once.named_modules() if isinstance(module, Prepacked)}
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = once.detector(images).logits
        for twice in (copying.deepcopy(once), pickle.loads(pickle.dumps(once)), for_inference(once)):
            assert names == {name for name, module in twice.named_modules() if isinstance(module, Prepacked)}
            assert torch.equal(twice.detector(images).logits, expected)


@on_onednn
def test_a_prepacked_convolution_is_the_convolution_its_sum_and_its_activation():
    generator = torch.Generator().manual_seed(0)
    for kernel, groups, stride in ((1, 1, 1), (3, 1, 2), (3, 4, 1)):
        conv = nn.Conv2d(8, 12, kernel, stride, kernel // 2, groups=groups)
        x = torch.randn(2, 8, 11, 14, generator=generator)
        with torch.no_grad():
            expected = conv(x)
            conv.__class__ = PrepackedConv2d
            conv.pack()
            torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)
            conv.activation = "relu"
            torch.testing.assert_close(conv(x), expected.relu(), rtol=1e-4, atol=1e-5)
            other = torch.randn(expected.shape, generator=generator)
            torch.testing.assert_close(conv(x, other.clone()), (expected + other).relu(), rtol=1e-4, atol=1e-5)
            conv.activation = "none"
            torch.testing.assert_close(conv(x, other.clone()), expected + other, rtol=1e-4, atol=1e-5)


class Doubled(ClassHead):
    """A head of a user's own."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("change", ["a subclass", "a hook", "weight norm"])
def test_layers_that_a_user_has_changed_stay_as_they_are(model, change):
    decoder = model.detector.decoder
    if change == "a subclass":
        decoder.class_head.__class__ = Doubled
    elif change == "a hook":
        decoder.class_head.register_forward_hook(lambda module, inputs, output: 2 * output)
    else:
        nn.utils.parametrizations.weight_norm(decoder.class_head)
        decoder.class_head.parametrizations.weight.original0.data.mul_(2)
        conv = next(module for module in model.modules() if isinstance(module, NormedConv2d))
        nn.utils.parametrize.register_parametrization(conv, "weight", nn.Tanh())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = model.eval().detector(images), for_inference(model).detector(images)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)


@on_onednn
@with_bfloat16
def test_a_copy_can_be_brought_to_another_precision(model, make_input):
    inputs = [make_input(64, 96)]
    expected = for_inference(model, torch.bfloat16)(inputs)[0]["instances"]
    found = for_inference(for_inference(model), torch.bfloat16)(inputs)[0]["instances"]
    assert torch.equal(found.scores, expected.scores)


@with_bfloat16
def test_a_map_in_any_layout_is_added_to():
    conv = nn.Conv2d(8, 8, 1).bfloat16().requires_grad_(False)
    x, plus = torch.randn(2, 1, 8, 5, 6).bfloat16()
    expected = conv(x) + plus
    conv.__class__ = PrepackedConv2d
    conv.pack()
    torch.testing.assert_close(conv(x, plus), expected, rtol=0.02, atol=0.02)


def test_half_precision_halves_the_weights_and_keeps_boxes_in_float32(model, make_input):
    copy = for_inference(model, torch.bfloat16)
    for module in copy.modules():
        if isinstance(module, nn.Conv2d | PrepackedLinear) and module not in box_heads(copy):
            assert module.weight.dtype == torch.bfloat16
        if isinstance(module, BoxHead):
            assert module.layers[0].weight.dtype == torch.float32
    images = model.normalise(make_input(64, 96)["image"])[None]
    with torch.no_grad():
        expected = model.eval().detector(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = copy.detector(images)
    assert found.boxes.dtype == torch.float32
    # Queries are ranked by nearly equal scores here, so compare what all of them say together.
    torch.testing.assert_close(found.logits.float().mean((1, 2)), expected.logits.mean((1, 2)), rtol=0.05, atol=0.05)
    (detections,) = copy([make_input(64, 96)])
    assert detections["instances"].pred_boxes.tensor.dtype == torch.float32
    assert detections["instances"].scores.dtype == torch.float32
