# SPDX-License-Identifier: Apache-2.0
"""Decisions that all ranks must share."""

import torch
import torch.distributed as dist


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
