# SPDX-License-Identifier: Apache-2.0
"""Linear layers and feed-forward networks computed in oneDNN on a CPU.

PyTorch computes float32 products on a CPU with MKL, which has no AVX-512 kernels for AMD processors. oneDNN has them
and computes a following ReLU at no cost. docs/performance.md has the measured gains.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dino_d2.layers import CrossAttention, FeedForward, LinearStack, RowColumnAttention, SelfAttention, autocast_is_on
from dino_d2.modeling.heads import ClassHead

#: oneDNN's product with an activation; None where PyTorch was built without oneDNN.
_onednn: Callable[..., Tensor] | None = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)

#: Rows of a feed-forward network computed at a time: 2048 hidden values of each fit into the cache (8 MiB).
_BLOCK = 1024

_plain_depth = 0


@contextlib.contextmanager
def use_plain_linear() -> Iterator[None]:
    """Inside this context everything uses ``F.linear``; for comparisons and measurements."""
    global _plain_depth
    _plain_depth += 1
    try:
        yield
    finally:
        _plain_depth -= 1


def plain_linear_is_used() -> bool:
    return _plain_depth > 0


class OneDNNLinear(nn.Linear):
    """``nn.Linear`` computed by :func:`linear`; [..., in] -> [..., out]."""

    #: "none" or "relu": the activation that is computed together with the product.
    activation = "none"

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """The result of a call of a plain layer, without hooks."""
        return linear(x, self.weight, self.bias, self.activation)


class OneDNNLinearReLU(OneDNNLinear):
    """A linear layer and the ReLU that follows it."""

    activation = "relu"


class OneDNNClassHead(OneDNNLinear, ClassHead):
    """``ClassHead`` computed in oneDNN."""


class OneDNNSelfAttention(SelfAttention):
    """``SelfAttention`` whose input projections are computed in oneDNN."""

    @staticmethod
    def project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(x, weight, bias)


class OneDNNCrossAttention(CrossAttention):
    """``CrossAttention`` whose input projections are computed in oneDNN."""

    project = staticmethod(OneDNNSelfAttention.project)


class BlockedFeedForward(FeedForward):
    """``FeedForward`` with ReLU, computed block by block (:func:`feed_forward`) where dropout does not intervene."""

    def forward(self, x: Tensor) -> Tensor:
        if self.dropout.training and self.dropout.p:
            return super().forward(x)
        return self.norm(x + feed_forward(x, self.linear1, self.linear2))


def use_onednn(model: nn.Module) -> None:
    """Let linear layers, input projections and feed-forward networks compute in oneDNN on a CPU, in place.

    Parameters, their names and the results of other devices stay the same. Layers of other classes, such as adapters
    and layers of timm's models, are not changed.
    """
    # Row-column attention projects its inputs with F.linear; none of its layers are replaced.
    plain = {child for m in model.modules() if isinstance(m, RowColumnAttention) for child in m.modules()}
    modules = [module for module in model.modules() if module not in plain]
    for module in modules:
        if isinstance(module, LinearStack):
            fuse_relu(module.layers[:-1], module)
        elif type(module) is FeedForward and type(module.activation) is nn.ReLU:
            fuse_relu([module.linear1], module)
            module.__class__ = BlockedFeedForward
    for module in modules:
        if type(module) in _ONEDNN:
            module.__class__ = _ONEDNN[type(module)]


def fuse_relu(layers: Iterable[nn.Module], owner: nn.Module) -> None:
    """Move the ReLU of an MLP or a feed-forward network into the layers before it, if all of them are plain."""
    layers = list(layers)
    if type(owner.activation) is nn.ReLU and all(type(layer) is nn.Linear for layer in layers):
        for layer in layers:
            layer.__class__ = OneDNNLinearReLU
        owner.activation = nn.Identity()


_ONEDNN = {
    nn.Linear: OneDNNLinear,
    ClassHead: OneDNNClassHead,
    SelfAttention: OneDNNSelfAttention,
    CrossAttention: OneDNNCrossAttention,
}


def is_plain(layer: nn.Module) -> bool:
    """Whether a call of the layer computes only its product: no other ``forward`` (as in adapters) and no hook."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    is_ours = getattr(type(layer), "forward", None) is OneDNNLinear.forward
    return is_ours and "forward" not in vars(layer) and not any(hooks)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """``F.linear`` and an activation, "none" or "relu": [..., in], [out, in], [out] -> [..., out].

    Where oneDNN computes both, its ReLU turns NaN into 0, which ``torch.relu`` keeps.
    """
    x, weight, bias = _autocast(x, weight, bias)
    if not _goes_to_onednn(x, weight):
        y = F.linear(x, weight, bias)
        return y.relu_() if activation == "relu" else y
    if torch.is_grad_enabled() and (
        x.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return _OneDNNLinear.apply(x, weight, bias, activation)
    return _product(x, weight, bias, activation)


def feed_forward(x: Tensor, linear1: nn.Linear, linear2: nn.Linear) -> Tensor:
    """``linear2(linear1(x))``, linear1 with ReLU: [..., D] -> [..., D].

    On a CPU the rows are computed in blocks whose hidden values stay in the cache. The backward pass recomputes the
    hidden values instead of storing them; they are the largest tensors of a layer. Layers with an adapter or hooks are
    called normally.
    """
    if x.device.type != "cpu" or _plain_depth or _is_traced() or not (is_plain(linear1) and is_plain(linear2)):
        return linear2(linear1(x))
    parameters = (linear1.weight, linear1.bias, linear2.weight, linear2.bias)
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in (x, *parameters)):
        return torch.cat([linear2(linear1(rows)) for rows in _blocks(x)]).reshape(*x.shape[:-1], -1)
    inputs = _autocast(x, *parameters)
    return _OneDNNFeedForward.apply(*inputs) if _goes_to_onednn(*inputs[:2]) else linear2(linear1(x))


@overload
def _autocast(x: Tensor, weight: Tensor, bias: Tensor | None, /) -> tuple[Tensor, Tensor, Tensor | None]: ...
@overload
def _autocast(
    x: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None, /
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]: ...
def _autocast(x: Tensor, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype of autocast, if it is enabled; float64 is not cast, as in autocast itself."""
    tensors = (x, *parameters)
    device_type = x.device.type
    if x.dtype is torch.float64 or not autocast_is_on(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(None if t is None else t.to(dtype) for t in tensors)


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """[..., D] -> some of [up to _BLOCK, D]."""
    return _rows(x).split(_BLOCK)


def _rows(x: Tensor) -> Tensor:
    """[..., D] -> [rows, D]; [D] is one row."""
    return x.reshape(-1, x.shape[-1])


def _is_traced() -> bool:
    """Whether a graph is recorded or a torch.func transform is active; both must see plain PyTorch operators."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    )


def _goes_to_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN computes this product.

    PyTorch itself computes bfloat16 there, but copies the bias first and applies the activation afterwards.
    """
    return (
        _onednn is not None
        and not _plain_depth
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.device.type == "cpu"
        and weight.dtype is x.dtype
        and x.numel() > 0
        and not _is_traced()
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    assert _onednn is not None
    return _onednn(x, weight, bias, activation, [], "")


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        y = _product(x, weight, bias, activation)
        ctx.save_for_backward(x, weight, y if activation == "relu" else None)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        if y is not None:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        return *_gradients(grad, x, weight, ctx.needs_input_grad[:3]), None


class _OneDNNFeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor | None, weight2: Tensor, bias2: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x, weight1, bias1, weight2)
        rows = [_product(_product(rows, weight1, bias1, "relu"), weight2, bias2) for rows in _blocks(x)]
        return torch.cat(rows).reshape(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight1, bias1, weight2 = ctx.saved_tensors
        needs_x, *needs = ctx.needs_input_grad
        grad_x: list[Tensor] = []
        sums: list[Tensor | None] = [None] * 4
        for rows, grad_rows in zip(_blocks(x), _blocks(grad), strict=True):
            hidden = _product(rows, weight1, bias1, "relu")
            grad_hidden, *second = _gradients(grad_rows, hidden, weight2, (True, *needs[2:]))
            assert grad_hidden is not None
            grad_hidden = torch.ops.aten.threshold_backward(grad_hidden, hidden, 0)
            grad_of_rows, *first = _gradients(grad_hidden, rows, weight1, (needs_x, *needs[:2]))
            if grad_of_rows is not None:
                grad_x.append(grad_of_rows)
            sums = [_added(*pair) for pair in zip(sums, first + second, strict=True)]
        return torch.cat(grad_x).reshape(x.shape) if needs_x else None, *sums


def _added(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """The sum in float32, since bfloat16 has too few bits for many summands; ``total`` is changed in place."""
    if part is None:
        return None
    return part.float() if total is None else total.add_(part)


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """The needed gradients of x, weight and bias, from the gradient of x · weightᵀ + bias."""
    grad_x = grad_weight = grad_bias = None
    needs_x, needs_weight, needs_bias = needed
    if needs_x:
        grad_x = _product(grad, weight.t())
    if needs_weight:
        rows, columns = _rows(grad).t(), _rows(x).t()  # [out, rows] and [in, rows]
        # oneDNN is faster when the result has fewer rows.
        few_outputs = len(rows) <= len(columns)
        grad_weight = _product(rows, columns) if few_outputs else _product(columns, rows).t()
    if needs_bias:
        grad_bias = _rows(grad).sum(0)
    return grad_x, grad_weight, grad_bias
