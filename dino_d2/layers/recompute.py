# SPDX-License-Identifier: Apache-2.0
"""Activation checkpointing, which saves memory and costs time."""

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *inputs: Any) -> Any:
    """``module(*inputs)`` that stores only its inputs and recomputes all other activations in the backward pass.

    Results and gradients equal those of a plain call, since the RNG state is restored for the second computation.
    Without gradients this is a plain call.
    """
    if not torch.is_grad_enabled():
        return module(*inputs)
    return checkpoint(module, *inputs, use_reentrant=False)
