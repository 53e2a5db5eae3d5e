# SPDX-License-Identifier: Apache-2.0
"""Decisions and weights that all ranks must share."""

import itertools

import torch
import torch.distributed as dist
from torch import nn


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set on any rank. All ranks must call this together; they exchange one number."""
    if not (dist.is_available() and dist.is_initialized()):
        return flag
    count = torch.tensor(float(flag), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(count)
    return count.item() > 0


def largest_of_ranks(value: float) -> float:
    """The largest value of all ranks. All ranks must call this together; they exchange one number."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    largest = torch.tensor(float(value), device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.item()


@torch.no_grad()
def share_weights(model: nn.Module) -> None:
    """Give all ranks the parameters and buffers of rank 0, in place. All ranks must call this together.

    Ranks are seeded differently, so their random weights differ. DDP does the same, but only after the moving average
    has been copied from the model.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        shared = tensor.contiguous()
        dist.broadcast(shared, src=0)
        tensor.copy_(shared)
