# SPDX-License-Identifier: Apache-2.0
"""Folded frozen norms: the same maps, gradients and names."""

import copy

import pytest
import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import nn

from dino_d2.speed.frozen_batch_norm import FusedNorm, NormedConv2d, fuse_frozen_batch_norms


def frozen(name: str) -> nn.Module:
    torch.manual_seed(0)
    body = freeze_batch_norm_2d(timm.create_model(name, features_only=True, pretrained=False))
    for module in body.modules():
        if hasattr(module, "running_var"):
            for buffer in (module.weight, module.running_var):
                nn.init.uniform_(buffer, 0.5, 1.5)
            for buffer in (module.bias, module.running_mean):
                nn.init.normal_(buffer, std=0.1)
    return body.double()


@pytest.mark.parametrize("name", ["resnet18", "resnet10t"])  # the second has a deep stem and pooling on its short cuts
def test_maps_and_gradients_are_those_of_the_norms(name):
    body = frozen(name)
    folded = copy.deepcopy(body)
    fuse_frozen_batch_norms(folded)
    assert list(folded.state_dict()) == list(body.state_dict())
    assert sum(isinstance(m, NormedConv2d) for m in folded.modules()) == sum(
        isinstance(m, nn.Conv2d) for m in body.modules()
    )
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    for expected, found in zip(body(images), folded(images), strict=True):
        torch.testing.assert_close(found, expected)
    for model in (body, folded):
        sum(m.square().mean() for m in model(images)).backward()
    for (parameter, expected), found in zip(body.named_parameters(), folded.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=parameter)


def test_buffers_loaded_later_count():
    body = frozen("resnet10t")
    fuse_frozen_batch_norms(body)
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    before = body(images)[-1]
    body.load_state_dict({k: v * 1.1 if k.endswith("running_mean") else v for k, v in body.state_dict().items()})
    assert not torch.allclose(body(images)[-1], before)


@pytest.mark.parametrize("name", ["ghostnet_050", "resnet18"])
def test_folding_changes_no_map_and_no_norm(name, caplog):
    """ghostnet's first map is that of a convolution whose norm comes later: nothing may be folded there."""
    torch.manual_seed(0)
    body = freeze_batch_norm_2d(timm.create_model(name, features_only=True, pretrained=False))
    for module in body.modules():
        if hasattr(module, "running_var"):
            nn.init.constant_(module.weight, 0.5)
    state, images = copy.deepcopy(body.state_dict()), torch.rand(1, 3, 64, 96)
    expected = body(images)
    fuse_frozen_batch_norms(body)
    torch.testing.assert_close(body(images), expected)
    assert all(torch.equal(value, state[name]) for name, value in body.state_dict().items())
    assert any(isinstance(m, NormedConv2d) for m in body.modules()) == (name == "resnet18")
    assert ("could not be fused" in caplog.text) == (name == "ghostnet_050")


def test_a_copy_reads_its_own_norms():
    body = frozen("resnet10t")
    fuse_frozen_batch_norms(body)
    twin = copy.deepcopy(body)
    norms = [m for m in twin.modules() if isinstance(m, FusedNorm)]
    assert {id(m.next_norm[0]) for m in twin.modules() if isinstance(m, NormedConv2d)} == {id(m) for m in norms}


def test_a_norm_that_takes_something_else_is_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.norm = freeze_batch_norm_2d(nn.BatchNorm2d(4))

        def forward(self, x):
            return self.norm(self.conv(x).relu())

    net = Net()
    fuse_frozen_batch_norms(net)
    assert type(net.conv) is nn.Conv2d
    assert not isinstance(net.norm, FusedNorm)
