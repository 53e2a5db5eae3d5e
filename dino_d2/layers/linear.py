"""Linear layers that compute in oneDNN on a CPU."""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: PyTorch takes float32 products to MKL, which has no AVX-512 kernels for processors of AMD. Its oneDNN has: on two
#: cores of an EPYC 370 GFLOPS instead of 170 (14000 × 256 times 256 × 2048), with the ReLU inside for nothing.
_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


_plain_depth = 0


@contextlib.contextmanager
def use_plain_linear() -> Iterator[None]:
    """Everything inside takes ``F.linear``; for comparisons and measurements."""
    global _plain_depth
    _plain_depth += 1
    try:
        yield
    finally:
        _plain_depth -= 1


class Linear(nn.Linear):
    """``nn.Linear``, with the activation that follows it where there is one; [..., in] -> [..., out].

    Args:
        activation: "none" or "relu".
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, activation: str = "none"):
        super().__init__(in_features, out_features, bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, self.activation)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """``F.linear`` and an activation, "none" or "relu": [..., I], [O, I], [O] -> [..., O]."""
    if x.dtype is not torch.float64 and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if not _goes_to_onednn(x, weight):
        y = F.linear(x, weight, bias)
        return y.relu_() if activation == "relu" else y
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return _OneDNNLinear.apply(x, weight, bias, activation)
    return _product(x, weight, bias, activation)


def feed_forward(x: Tensor, linear1: Linear, linear2: Linear) -> Tensor:
    """``linear2(linear1(x))``, linear1 with ReLU: [..., D] -> [..., D].

    Where oneDNN computes it, the hidden values are computed once more in the backward pass instead of being kept. They
    are the largest tensors of a layer: a training step of 2 × 512 × 640 took 2611 MiB instead of 3368 on one core.
    """
    kept = torch.is_grad_enabled() and (x.requires_grad or linear1.weight.requires_grad)
    if not kept or torch.is_autocast_enabled(x.device.type) or not _goes_to_onednn(x, linear1.weight):
        return linear2(linear1(x))
    return _OneDNNFeedForward.apply(x, linear1.weight, linear1.bias, linear2.weight, linear2.bias)


def _goes_to_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether the product is one for oneDNN. What traces the graph must see plain PyTorch.

    PyTorch itself takes bfloat16 there, but copies the bias first and computes the activation afterwards.
    """
    return (
        _onednn is not None
        and not _plain_depth
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.device.type == "cpu"
        and weight.dtype is x.dtype
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    return _onednn(x, weight, bias, activation, [], "")


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, activation):
        y = _product(x, weight, bias, activation)
        ctx.save_for_backward(x, weight, y if activation == "relu" else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, y = ctx.saved_tensors
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        return *_gradients(grad, x, weight, ctx.needs_input_grad[:3]), None


class _OneDNNFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2):
        ctx.save_for_backward(x, weight1, bias1, weight2)
        return _product(_product(x, weight1, bias1, "relu"), weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight1, bias1, weight2 = ctx.saved_tensors
        needs_x, *needs = ctx.needs_input_grad
        hidden = _product(x, weight1, bias1, "relu")
        grad_hidden, *second = _gradients(grad, hidden, weight2, (True, *needs[2:]))
        grad_hidden = torch.ops.aten.threshold_backward(grad_hidden, hidden, 0)
        del hidden
        return *_gradients(grad_hidden, x, weight1, (needs_x, *needs[:2])), *second


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias, as far as they are needed, from that of x · weightᵀ + bias."""
    grad_x = grad_weight = grad_bias = None
    needs_x, needs_weight, needs_bias = needed
    if needs_x:
        grad_x = _product(grad, weight.t())
    if needs_weight:
        rows, columns = grad.flatten(0, -2).t(), x.flatten(0, -2).t()  # [O, S] and [I, S]
        # oneDNN is twice as fast when the result has the fewer rows.
        few_outputs = len(rows) <= len(columns)
        grad_weight = _product(rows, columns) if few_outputs else _product(columns, rows).t()
    if needs_bias:
        grad_bias = grad.flatten(0, -2).sum(0)
    return grad_x, grad_weight, grad_bias
