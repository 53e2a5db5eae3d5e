# SPDX-License-Identifier: Apache-2.0
"""Linear layers and convolutions whose weights are stored in oneDNN's own layout, for detection on a CPU.

PyTorch reorders a weight into that layout in every call; here it is reordered once. A following activation or
addition is computed together with the product, while its results are in the cache.

oneDNN's operators have no derivative. Where a gradient by the input is needed, the layers use PyTorch's operators.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .linear import OneDNNLinear, is_plain, linear, plain_linear_is_used

_mkldnn = torch.ops.mkldnn
_OPERATORS = (
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_reorder_convolution_weight",
    "_convolution_pointwise",
    "_convolution_pointwise_",
)
_built = torch.backends.mkldnn.is_available() and all(hasattr(_mkldnn, name) for name in _OPERATORS)


class Prepacked(nn.Module):
    """Base class. Copies and pickles have the plain weight; parameters and ``state_dict`` do not."""

    weight: Tensor

    def pack(self) -> None:
        """Reorder ``self.weight``."""
        parameter = self._parameters.pop("weight", None)
        self.weight = self.packed((self.weight if parameter is None else parameter).detach())

    def packed(self, weight: Tensor) -> Tensor:
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Prepacked":
        """``to``, ``float``, ... of a module: the weight is reordered again for its new dtype."""
        weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        del self.weight
        self.weight = weight
        super()._apply(fn, recurse)
        self.pack()
        return self

    def __getstate__(self) -> dict:
        return super().__getstate__() | {"weight": self.weight.to_dense()}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self.pack()


class PrepackedLinear(Prepacked, OneDNNLinear):
    """``OneDNNLinear``; [..., in] -> [..., out] in the dtype of the weight."""

    def packed(self, weight: Tensor) -> Tensor:
        return _mkldnn._reorder_linear_weight(weight, 1024)  # expected rows; any number gives correct results

    def product(self, x: Tensor) -> Tensor:
        if needs_gradient(x):
            return linear(x.to(self.weight.dtype), self.weight.to_dense(), self.bias, self.activation)
        return _mkldnn._linear_pointwise(x.to(self.weight.dtype), self.weight, self.bias, self.activation, [], "")


class PrepackedConv2d(Prepacked, nn.Conv2d):
    """``nn.Conv2d`` and the activation that follows, "none" or "relu"; [B, C, H, W] in the dtype of the weight."""

    activation = "none"

    def packed(self, weight: Tensor) -> Tensor:
        # oneDNN chooses a layout for a map size. Any size gives correct results; without one, its layout for
        # 1 × 1 kernels with many channels is slow.
        return _mkldnn._reorder_convolution_weight(weight, *self.geometry(), [1, self.in_channels, 100, 152])

    def geometry(self) -> tuple:
        return self.padding, self.stride, self.dilation, self.groups

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """The convolution of ``x``, plus a map of the result's shape, which may be overwritten; then the activation."""
        x = x.to(self.weight.dtype)
        if needs_gradient(x, plus):
            y = F.conv2d(x, self.weight.to_dense(), self.bias, self.stride, self.padding, self.dilation, self.groups)
            y = y if plus is None else y + plus
            return y.relu() if self.activation == "relu" else y
        arguments = (self.weight, self.bias, *self.geometry())
        if plus is None:
            return _mkldnn._convolution_pointwise(x, *arguments, self.activation, [], "")
        plus = plus.contiguous(memory_format=torch.channels_last)  # oneDNN supports the addition only in this layout
        activation = None if self.activation == "none" else self.activation
        return _mkldnn._convolution_pointwise_(plus, x, *arguments, "add", 1.0, activation, [], "")


def needs_gradient(*inputs: Tensor | None) -> bool:
    """Whether autograd records computations on the inputs."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)


def prepack(model: nn.Module) -> None:
    """Prepack linear layers and bfloat16 convolutions of a model in place, where oneDNN supports their dtype.

    Layers with a user's adapter, hook or parametrization are not changed, nor are float32 convolutions, which
    prepacking makes slower (docs/performance.md). Afterwards the model must stay on the CPU and can be neither
    trained, compiled nor exported.
    """
    if not _built or plain_linear_is_used():
        return
    dtypes = {torch.float32}
    if _mkldnn._is_mkldnn_bf16_supported():
        dtypes.add(torch.bfloat16)
    for module in model.modules():
        kind = _packed_kind(module)
        weight = getattr(module, "weight", None)
        if kind is not None and weight is not None and weight.device.type == "cpu" and weight.dtype in dtypes:
            activation = module.activation if isinstance(module, OneDNNLinear) else "none"
            module.__class__ = kind
            assert isinstance(module, PrepackedLinear | PrepackedConv2d)
            module.activation = activation
            module.pack()


def _packed_kind(module: nn.Module) -> type[Prepacked] | None:
    """The class the module can change to, or None."""
    if isinstance(module, Prepacked) or is_parametrized(module):
        return None
    if isinstance(module, OneDNNLinear):
        return PrepackedLinear if is_plain(module) else None
    plain = type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return PrepackedConv2d if plain and module.weight.dtype is torch.bfloat16 else None
