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

#: Rows a feed-forward network computes at a time: their hidden values, 8 MiB where there are 2048, stay in the cache.
_BLOCK = 1024

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


def plain_linear_is_used() -> bool:
    return _plain_depth > 0


class Linear(nn.Linear):
    """``nn.Linear``, with the activation that follows it where there is one; [..., in] -> [..., out].

    Args:
        activation: "none" or "relu".
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, activation: str = "none"):
        super().__init__(in_features, out_features, bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        """All that a plain layer does when it is called."""
        return linear(x, self.weight, self.bias, self.activation)


def is_plain(layer: nn.Module) -> bool:
    """Whether calling a layer is its product and nothing else: no other ``forward`` (as adapters have it), no hook."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer).forward is Linear.forward and "forward" not in vars(layer) and not any(hooks)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """``F.linear`` and an activation, "none" or "relu": [..., I], [O, I], [O] -> [..., O].

    Where oneDNN computes both, its ReLU makes 0 of NaN, which ``torch.relu`` keeps.
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


def feed_forward(x: Tensor, linear1: Linear, linear2: Linear) -> Tensor:
    """``linear2(linear1(x))``, linear1 with ReLU: [..., D] -> [..., D].

    On a CPU it takes a block of rows after the other, whose hidden values stay in the cache, and the backward pass
    computes these once more instead of keeping them: 13600 rows of 256 with 2048 hidden values took 70 ms forward and
    205 backward instead of 143 and 484, and the hidden values are the largest tensors of a layer. Layers with an
    adapter or hooks of a user's are called as they are.
    """
    if x.device.type != "cpu" or _plain_depth or _is_traced() or not (is_plain(linear1) and is_plain(linear2)):
        return linear2(linear1(x))
    parameters = (linear1.weight, linear1.bias, linear2.weight, linear2.bias)
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in (x, *parameters)):
        return torch.cat([linear2(linear1(rows)) for rows in _blocks(x)]).reshape(*x.shape[:-1], -1)
    inputs = _autocast(x, *parameters)
    return _OneDNNFeedForward.apply(*inputs) if _goes_to_onednn(*inputs[:2]) else linear2(linear1(x))


def autocast_is_on(device_type: str) -> bool:
    """Also of devices without autocast, such as "meta"."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in the dtype of autocast, where it is on; float64 is left alone, as autocast does."""
    device_type = tensors[0].device.type
    if tensors[0].dtype is torch.float64 or not autocast_is_on(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(None if t is None else t.to(dtype) for t in tensors)


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """[..., D] -> some of [up to _BLOCK, D]."""
    return _rows(x).split(_BLOCK)


def _rows(x: Tensor) -> Tensor:
    """[..., D] -> [S, D]; [D] is one row."""
    return x.reshape(-1, x.shape[-1])


def _is_traced() -> bool:
    """Whether a graph is being recorded, which must see plain PyTorch."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _goes_to_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether the product is one for oneDNN.

    PyTorch itself takes bfloat16 there, but copies the bias first and computes the activation afterwards.
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
        rows = [_product(_product(rows, weight1, bias1, "relu"), weight2, bias2) for rows in _blocks(x)]
        return torch.cat(rows).reshape(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight1, bias1, weight2 = ctx.saved_tensors
        needs_x, *needs = ctx.needs_input_grad
        grad_x, sums = [], [None] * 4
        for rows, grad_rows in zip(_blocks(x), _blocks(grad), strict=True):
            hidden = _product(rows, weight1, bias1, "relu")
            grad_hidden, *second = _gradients(grad_rows, hidden, weight2, (True, *needs[2:]))
            grad_hidden = torch.ops.aten.threshold_backward(grad_hidden, hidden, 0)
            grad_rows, *first = _gradients(grad_hidden, rows, weight1, (needs_x, *needs[:2]))
            grad_x.append(grad_rows)
            sums = [_added(*pair) for pair in zip(sums, first + second, strict=True)]
        return torch.cat(grad_x).reshape(x.shape) if needs_x else None, *sums


def _added(total: Tensor | None, part: Tensor | None) -> Tensor | None:
    """The sum in float32, since bfloat16 has too few digits for many parts; ``total`` is changed."""
    if part is None:
        return None
    return part.float() if total is None else total.add_(part)


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias, as far as they are needed, from that of x · weightᵀ + bias."""
    grad_x = grad_weight = grad_bias = None
    needs_x, needs_weight, needs_bias = needed
    if needs_x:
        grad_x = _product(grad, weight.t())
    if needs_weight:
        rows, columns = _rows(grad).t(), _rows(x).t()  # [O, S] and [I, S]
        # oneDNN is twice as fast when the result has the fewer rows.
        few_outputs = len(rows) <= len(columns)
        grad_weight = _product(rows, columns) if few_outputs else _product(columns, rows).t()
    if needs_bias:
        grad_bias = _rows(grad).sum(0)
    return grad_x, grad_weight, grad_bias
