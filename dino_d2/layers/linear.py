"""Linear layers that compute in oneDNN on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: PyTorch takes float32 products to MKL, which has no AVX-512 kernels for processors of AMD. Its oneDNN has: on two
#: cores of an EPYC 370 GFLOPS instead of 170 (14000 × 256 times 256 × 2048), with the ReLU inside for nothing.
_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


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
    if not _goes_to_onednn(x, weight):
        y = F.linear(x, weight, bias)
        return y.relu_() if activation == "relu" else y
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return _OneDNNLinear.apply(x, weight, bias, activation)
    return _product(x, weight, bias, activation)


def _goes_to_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether PyTorch would take the product to MKL: float32 on a CPU. What traces the graph must see plain PyTorch."""
    return (
        _onednn is not None
        and x.dtype is torch.float32
        and x.device.type == "cpu"
        and weight.dtype is torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
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
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _product(grad, weight.t())
        if ctx.needs_input_grad[1]:
            rows, columns = grad.flatten(0, -2).t(), x.flatten(0, -2).t()  # [O, S] and [I, S]
            # oneDNN is twice as fast when the result has the fewer rows.
            few_outputs = len(rows) <= len(columns)
            grad_weight = _product(rows, columns) if few_outputs else _product(columns, rows).t()
        if ctx.needs_input_grad[2]:
            grad_bias = grad.flatten(0, -2).sum(0)
        return grad_x, grad_weight, grad_bias, None
