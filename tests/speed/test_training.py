# SPDX-License-Identifier: Apache-2.0
"""The faster modules of training: the same parameters, gradients and checkpoints as the plain ones."""

import torch
from torch import nn

from dino_d2.speed import optimise_for_training
from dino_d2.speed.frozen_batch_norm import NormedConv2d


def step(detector, images):
    detector.zero_grad()
    output = detector(images)
    (output.logits.sum() + output.boxes.sum()).backward()
    gradients = {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}
    return output.logits.detach(), output.boxes.detach(), gradients


def test_losses_and_gradients_stay_and_so_do_names(make_detector):
    detector = make_detector().train()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    names, types = list(detector.state_dict()), [type(module) for module in detector.modules()]
    logits, boxes, gradients = step(detector, images)
    optimise_for_training(detector)
    assert list(detector.state_dict()) == names
    changed = [(module, old) for module, old in zip(detector.modules(), types, strict=True) if type(module) is not old]
    assert changed
    # A ReLU is computed by the layer before it; every other module is replaced by a subclass.
    assert all(isinstance(module, old) for module, old in changed if old is not nn.ReLU)
    new_logits, new_boxes, new_gradients = step(detector, images)
    torch.testing.assert_close(new_logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(new_boxes, boxes, rtol=1e-4, atol=1e-5)
    assert new_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(new_gradients[name], gradient, rtol=1e-2, atol=1e-3, msg=name)


def test_a_detector_can_be_passed_twice(make_detector):
    detector = make_detector()
    optimise_for_training(detector)
    types = [type(module) for module in detector.modules()]
    optimise_for_training(detector)
    assert [type(module) for module in detector.modules()] == types
    assert any(isinstance(module, NormedConv2d) for module in detector.backbone.modules())
