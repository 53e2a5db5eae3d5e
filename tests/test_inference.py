"""The copy for detection alone: the same detections, and nearly the same in half precision."""

import pytest
import torch
from torch import nn

from dino_d2.modeling import BoxHead, for_inference
from dino_d2.modeling.frozen_batch_norm import NormedConv2d


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


def test_half_precision_halves_the_weights_and_keeps_boxes_in_float32(model, make_input):
    copy = for_inference(model, torch.bfloat16)
    for module in copy.modules():
        if isinstance(module, nn.Conv2d):
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
