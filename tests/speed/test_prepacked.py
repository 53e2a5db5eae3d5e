# SPDX-License-Identifier: Apache-2.0
"""Gradients through prepacked layers, whose oneDNN operators have no derivative."""

import copy

import pytest
import torch
from torch import nn

from dino_d2.speed.linear import OneDNNLinear, OneDNNLinearReLU
from dino_d2.speed.prepacked import Prepacked, PrepackedConv2d, prepack


def prepacked(*layers: nn.Module) -> nn.Sequential:
    model = nn.Sequential(*layers).requires_grad_(False)
    prepack(model)
    if not all(isinstance(layer, Prepacked) for layer in model):
        pytest.skip("oneDNN cannot compute this dtype here")
    return model


def input_gradient(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    model(x).square().sum().backward()
    return x.grad


@pytest.mark.parametrize("activation", ["none", "relu"])
def test_linear_has_the_gradient_of_the_plain_layer(activation):
    torch.manual_seed(0)
    plain = {"none": OneDNNLinear, "relu": OneDNNLinearReLU}[activation](8, 6)
    packed = prepacked(copy.deepcopy(plain))
    x = torch.randn(3, 5, 8)
    gradient = input_gradient(packed, x)
    assert gradient.abs().sum() > 0
    torch.testing.assert_close(gradient, input_gradient(plain, x))


def test_convolution_with_addition_and_relu_has_a_gradient_by_both_inputs():
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3, padding=1).to(torch.bfloat16)
    (packed,) = prepacked(copy.deepcopy(plain))
    assert isinstance(packed, PrepackedConv2d)
    packed.activation = "relu"
    x, plus = torch.randn(2, 4, 7, 7, dtype=torch.bfloat16), torch.randn(2, 6, 7, 7, dtype=torch.bfloat16)
    before = plus.clone()
    gradients = []
    for function in (packed, lambda x, plus: (plain(x) + plus).relu()):
        inputs = [x.clone().requires_grad_(), plus.clone().requires_grad_()]
        function(*inputs).float().sum().backward()
        gradients.append([tensor.grad for tensor in inputs])
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])
    torch.testing.assert_close(*gradients)
    packed(x.clone().requires_grad_(), plus)
    assert torch.equal(plus, before)


def test_the_gradient_is_that_of_the_onednn_result():
    torch.manual_seed(0)
    packed = prepacked(OneDNNLinearReLU(8, 6))
    x = torch.randn(5, 8)
    torch.testing.assert_close(packed(x.clone().requires_grad_()).detach(), packed(x))
