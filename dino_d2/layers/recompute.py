# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing: memory for time."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)`` that keeps its inputs alone for the backward pass and computes the rest once more there.

    The results are those of a plain call: random generators are put back for the second computation. Where no
    gradient is recorded this is a plain call.
    """
    if not torch.is_grad_enabled():
        return module(*inputs)
    return checkpoint(module, *inputs, use_reentrant=False)
