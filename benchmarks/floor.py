# SPDX-License-Identifier: Apache-2.0
"""Time of only the matrix products and convolutions of a model: a lower limit for any optimisation of the rest."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::convolution")
PRODUCTS += ("mkldnn::_linear_pointwise", "mkldnn::_convolution_pointwise", "mkldnn::_convolution_pointwise_")
ATTENTION = "aten::_scaled_dot_product"


def products_of(work: Callable[[], Any]) -> Callable[[], None]:
    """A function that repeats the products of one run of ``work`` with the same operators, shapes, strides and dtypes.

    Attention is replaced by its two products. Inputs are random and created in advance.
    """
    with _Recorder() as recorder:
        work()
    calls = recorder.calls

    @torch.no_grad()
    def run() -> None:
        for function, arguments, keywords in calls:
            function(*arguments, **keywords)

    return run


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []
        self.stand_ins: dict[tuple, Tensor] = {}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        name = function._schema.name
        if name in PRODUCTS:
            stand_ins = tree_map(self.stand_in, (arguments, keywords or {}))
            self.calls.append((function, *stand_ins))
        elif name.startswith(ATTENTION) and "backward" not in name:
            query, key, value = (self.stand_in(t).flatten(0, 1) for t in arguments[:3])
            scores = torch.rand(*query.shape[:2], key.shape[1], dtype=query.dtype, device=query.device)
            self.calls.append((torch.bmm, (query, key.transpose(1, 2)), {}))
            self.calls.append((torch.bmm, (scores, value), {}))
        return function(*arguments, **(keywords or {}))

    def stand_in(self, x: Any) -> Any:
        """A random tensor of the same shape, strides and dtype; equal ones share memory."""
        if not isinstance(x, Tensor) or x.is_mkldnn:  # weights in oneDNN's layout are used as they are
            return x
        key = (x.shape, x.stride(), x.dtype, x.device)
        if key not in self.stand_ins:
            made = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
            self.stand_ins[key] = made.copy_(torch.rand(x.shape, device=x.device)) if x.is_floating_point() else x
        return self.stand_ins[key]
