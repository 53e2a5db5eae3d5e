# SPDX-License-Identifier: Apache-2.0
"""What compilers and CUDA graphs ask of the tensor core: one graph, and nothing that waits for the device."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dino_d2.denoising import ContrastiveDenoising, FixedGroups
from dino_d2.speed import optimise_for_training
from dino_d2.speed.geometry import cached_shape_tensors

CLASSES = 5
#: Their results have a size, or a value on the host, that depends on what is in a tensor.
WAITS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal")


class NoWaiting(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        assert function._schema.name not in WAITS, f"{function} waits for the device"
        return function(*arguments, **(keywords or {}))


@pytest.fixture
def denoising():
    labels, boxes = [torch.tensor([0, 1]), torch.tensor([2])], [torch.full((2, 4), 0.3), torch.full((1, 4), 0.4)]
    return ContrastiveDenoising(CLASSES, FixedGroups(2))(labels, boxes)


@pytest.fixture
def padding():
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, 32:] = True
    return mask


def test_the_core_never_waits(make_detector, denoising, padding):
    detector = make_detector()
    images = torch.rand(2, 3, 64, 96)
    with NoWaiting():
        detector.train()(images, padding, denoising)
        with torch.no_grad():
            detector.eval()(images)
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        padding.nonzero()


@pytest.mark.slow
def test_the_training_core_is_one_graph(make_detector, denoising, padding):
    detector = make_detector().train()
    compiled = torch.compile(copy.deepcopy(detector), fullgraph=True, backend="eager", dynamic=False)
    images = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(compiled(images, padding, denoising).logits, detector(images, padding, denoising).logits)


def test_a_second_run_at_a_size_takes_nothing_from_the_host(make_detector, monkeypatch):
    """What CUDA graphs need: the geometry that starts as Python numbers is on the device already."""
    detector = make_detector().eval()
    optimise_for_training(detector)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        detector(images)
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("a tensor was made from Python numbers"))
    with torch.no_grad():
        detector(images)


def test_what_an_evaluation_leaves_can_be_trained_with(make_detector):
    cached_shape_tensors.forget()
    detector = make_detector()
    optimise_for_training(detector)
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        detector.eval()(images)
    output = detector.train()(images)
    (output.logits.sum() + output.boxes.sum()).backward()
    assert detector.encoder.layers[0].self_attention.value_proj.weight.grad is not None
