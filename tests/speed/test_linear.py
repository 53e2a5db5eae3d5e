# SPDX-License-Identifier: Apache-2.0
"""The linear layer of oneDNN against PyTorch's own in float64."""

import contextlib
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dino_d2.layers import FeedForward
from dino_d2.speed.linear import (
    OneDNNLinear,
    OneDNNLinearReLU,
    _goes_to_onednn,
    feed_forward,
    linear,
    use_plain_linear,
)


def reference(x, weight, bias, activation):
    y = F.linear(x, weight, bias)
    return y.relu() if activation == "relu" else y


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(40, 8), (8, 40)])  # the weight's gradient is computed either way round
def test_values_and_gradients(sizes, bias, activation):
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = sizes
    x = torch.randn(2, 30, inputs, generator=generator, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
    offset = torch.randn(outputs, generator=generator, dtype=torch.float64) if bias else None
    grad = torch.randn(2, 30, outputs, generator=generator, dtype=torch.float64)
    results = []
    for function, dtype in ((reference, torch.float64), (linear, torch.float32)):
        leaves = [None if t is None else t.to(dtype).detach().clone().requires_grad_() for t in (x, weight, offset)]
        y = function(*leaves, activation)
        y.backward(grad.to(dtype))
        results.append([y.detach(), *(t.grad for t in leaves if t is not None)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_feed_forward_is_its_two_layers_and_keeps_no_hidden_values():
    torch.manual_seed(0)
    linear1, linear2 = OneDNNLinearReLU(8, 40), OneDNNLinear(40, 8)
    x = torch.randn(2, 30, 8, requires_grad=True)
    grad = torch.randn(2, 30, 8)
    leaves = [x, *linear1.parameters(), *linear2.parameters()]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        found = feed_forward(x, linear1, linear2)
    assert torch.Size([2, 30, 40]) not in kept
    expected = linear2(linear1(x))
    assert torch.equal(found, expected)
    results = (torch.autograd.grad(y, leaves, grad) for y in (found, expected))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feed_forward_by_blocks(monkeypatch, dtype):
    monkeypatch.setattr(
        sys.modules[feed_forward.__module__], "_BLOCK", 16
    )  # of 60 rows: the last block is a smaller one
    torch.manual_seed(0)
    linear1, linear2 = OneDNNLinearReLU(8, 40), OneDNNLinear(40, 8)
    x, grad = torch.randn(2, 30, 8, requires_grad=True), torch.randn(2, 30, 8)
    leaves = [x, *linear1.parameters(), *linear2.parameters()]
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 2e-2, "atol": 5e-2}
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        found, expected = feed_forward(x, linear1, linear2), linear2(linear1(x))
        with torch.no_grad():
            detected = feed_forward(x, linear1, linear2)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(detected, expected, **close)
    results = (torch.autograd.grad(y, leaves, grad.to(dtype)) for y in (found, expected))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, **close)


class Adapter(OneDNNLinear):
    """A layer with low-rank weights beside its own, as LoRA has them."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.low = nn.Parameter(torch.randn(self.out_features, self.in_features))

    def forward(self, x):
        return super().forward(x) + F.linear(x, self.low)


@pytest.mark.parametrize("training", [True, False])
def test_feed_forward_calls_layers_that_a_user_has_changed(training):
    torch.manual_seed(0)
    linear1, linear2, x = OneDNNLinearReLU(8, 40), Adapter(40, 8), torch.randn(3, 8)
    with torch.set_grad_enabled(training):
        found = feed_forward(x, linear1, linear2)
        torch.testing.assert_close(found, linear2(linear1(x)))
        if training:
            found.sum().backward()
            assert linear2.low.grad.abs().sum() > 0
        calls = []
        linear1.register_forward_hook(lambda *_: calls.append(1))
        feed_forward(x, linear1, OneDNNLinear(40, 8))
    assert calls == [1]


def test_dropout_that_alone_is_in_training_drops():
    """As for an estimate of uncertainty."""
    network, x = FeedForward(8, 40, dropout=0.5).eval(), torch.randn(3, 8)
    assert torch.equal(network(x), network(x))
    network.dropout.train()
    assert not torch.equal(network(x), network(x))


def test_one_row_without_a_batch():
    torch.manual_seed(0)
    linear1, linear2 = OneDNNLinearReLU(8, 40), OneDNNLinear(40, 8)
    x = torch.randn(8, requires_grad=True)
    for y in (feed_forward(x, linear1, linear2), linear2(linear1(x))):
        y.sum().backward()
        assert y.shape == (8,)
    with torch.no_grad():
        assert feed_forward(x, linear1, linear2).shape == (8,)


def test_a_device_without_autocast():
    assert OneDNNLinear(4, 3).to("meta")(torch.empty(2, 4, device="meta")).shape == (2, 3)


def test_feed_forward_gives_gradients_only_where_they_are_needed():
    linear1, linear2 = OneDNNLinearReLU(4, 6), OneDNNLinear(6, 4)
    linear1.requires_grad_(False)
    x = torch.randn(3, 4, requires_grad=True)
    feed_forward(x, linear1, linear2).sum().backward()
    assert x.grad is not None
    assert linear1.weight.grad is None
    assert linear2.weight.grad is not None
    linear2.weight.requires_grad_(False)
    assert not feed_forward(x.detach(), linear1, linear2.requires_grad_(False)).requires_grad


def test_gradients_that_do_not_lie_in_one_piece():
    """sum() hands back one number seen as many; a slice hands back rows with gaps."""
    x = torch.randn(6, 5, requires_grad=True)
    weight = torch.randn(4, 5, requires_grad=True)
    for reduce in (torch.sum, lambda y: y[:, 1:3].square().sum(), lambda y: y.t()[::2].exp().sum()):
        found = torch.autograd.grad(reduce(linear(x, weight)), (x, weight))
        expected = torch.autograd.grad(reduce(F.linear(x, weight)), (x, weight))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_only_what_needs_a_gradient_gets_one():
    x, weight, bias = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True), torch.randn(5)
    linear(x, weight, bias).sum().backward()
    assert x.grad is None
    assert bias.grad is None
    assert weight.grad.shape == (5, 4)
    assert not linear(x, weight.detach(), bias).requires_grad


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
def test_float32_on_a_cpu_goes_to_onednn_and_the_rest_to_pytorch():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert _goes_to_onednn(x, weight)
    assert not _goes_to_onednn(x.double(), weight.double())
    assert not _goes_to_onednn(x[:0], weight)
    assert _goes_to_onednn(x.bfloat16(), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    with use_plain_linear():
        assert not _goes_to_onednn(x, weight)
    assert linear(x[:0], weight).shape == (0, 5)


def test_an_exported_graph_holds_plain_pytorch():
    program = torch.export.export(OneDNNLinearReLU(4, 5), (torch.randn(3, 4),))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names
    assert not any("mkldnn" in name for name in names)


def test_autocast_gives_what_pytorch_gives():
    generator = torch.Generator().manual_seed(0)
    x, grad = torch.randn(30, 16, generator=generator), torch.randn(30, 8, generator=generator)
    module = OneDNNLinearReLU(16, 8)
    results = []
    for plain in (contextlib.nullcontext, use_plain_linear):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16), plain():
            y = module(leaf)
        y.backward(grad.to(y.dtype))
        results.append((y.detach(), leaf.grad, module.weight.grad, module.bias.grad))
        module.zero_grad()
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
