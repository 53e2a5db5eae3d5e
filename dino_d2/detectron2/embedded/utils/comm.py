# SPDX-License-Identifier: Apache-2.0
"""Ranks of a distributed run and their communication, as in `detectron2.utils.comm`."""

import functools
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

_local_group: dist.ProcessGroup | None = None


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    return dist.get_world_size() if _distributed() else 1


def get_rank() -> int:
    return dist.get_rank() if _distributed() else 0


def is_main_process() -> bool:
    return get_rank() == 0


@functools.lru_cache
def create_local_process_group(num_workers_per_machine: int) -> None:
    """Create the process group of this machine. All ranks must call this, after `init_process_group`."""
    global _local_group
    world_size, rank = get_world_size(), get_rank()
    if world_size % num_workers_per_machine:
        raise AssertionError(
            f"{world_size} ranks cannot be divided among machines with {num_workers_per_machine} ranks each."
        )
    for first in range(0, world_size, num_workers_per_machine):
        ranks = list(range(first, first + num_workers_per_machine))
        group = dist.new_group(ranks)
        if rank in ranks:
            assert isinstance(group, dist.ProcessGroup)
            _local_group = group


def get_local_process_group() -> dist.ProcessGroup:
    if _local_group is None:
        raise AssertionError(
            "There is no process group of this machine: start processes with launch(), or call "
            "comm.create_local_process_group(ranks_per_machine) after torch.distributed.init_process_group()."
        )
    return _local_group


def get_local_rank() -> int:
    """The rank of this process among those of its machine."""
    return dist.get_rank(group=get_local_process_group()) if _distributed() else 0


def get_local_size() -> int:
    """The number of ranks on this machine."""
    return dist.get_world_size(group=get_local_process_group()) if _distributed() else 1


def synchronize() -> None:
    """Wait until all ranks have called this."""
    if get_world_size() == 1:
        return
    if dist.get_backend() == dist.Backend.NCCL:
        dist.barrier(device_ids=[torch.cuda.current_device()])
    else:
        dist.barrier()


@functools.lru_cache
def _gloo_group() -> dist.ProcessGroup:
    """A CPU process group of all ranks, so that exchanging Python objects needs no GPU memory."""
    group = dist.new_group(backend="gloo") if dist.get_backend() == "nccl" else dist.group.WORLD
    assert isinstance(group, dist.ProcessGroup)
    return group


def all_gather(data: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Gather `data`, any picklable object, from all ranks on all ranks, in the order of ranks."""
    if get_world_size() == 1:
        return [data]
    group = group or _gloo_group()
    gathered = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, data, group=group)
    return gathered


def gather(data: Any, dst: int = 0, group: dist.ProcessGroup | None = None) -> list[Any]:
    """Gather `data` from all ranks on rank `dst`, in the order of ranks. Other ranks get an empty list."""
    if get_world_size() == 1:
        return [data]
    group = group or _gloo_group()
    gathered = [None] * dist.get_world_size(group) if dist.get_rank(group) == dst else None
    dist.gather_object(data, gathered, dst=dst, group=group)
    return gathered or []


def shared_random_seed() -> int:
    """A random number that is the same on all ranks. All ranks must call this."""
    return all_gather(np.random.randint(2**31))[0]  # noqa: NPY002 drawn from the seeded global generator
