# SPDX-License-Identifier: Apache-2.0
"""Starting one process per GPU, as in `detectron2.engine.launch`."""

import logging
import socket
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..utils import comm

DEFAULT_TIMEOUT = timedelta(minutes=30)


def launch(
    main_func: Callable,
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple = (),
    timeout: timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call `main_func(*args)` in `num_gpus_per_machine` new processes, or in this process if there is only one.

    The ranks communicate over NCCL if there is CUDA, otherwise over gloo. Call this on every machine.

    Args:
        num_gpus_per_machine: processes per machine; at most its number of GPUs, if it has any.
        machine_rank: this machine's number, 0 .. num_machines - 1.
        dist_url: address at which the ranks connect, such as "tcp://host:port"; "auto" picks a free port of this
            machine, if it is the only one.
        timeout: time limit of collective operations.
    """
    world_size = num_machines * num_gpus_per_machine
    if world_size == 1:
        main_func(*args)
        return
    if dist_url == "auto":
        if num_machines != 1:
            raise AssertionError("dist_url='auto' is for one machine; for several, give the address of machine 0.")
        dist_url = f"tcp://127.0.0.1:{_find_free_port()}"
    mp.start_processes(
        _distributed_worker,
        nprocs=num_gpus_per_machine,
        args=(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, args, timeout),
    )


def _find_free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]


def _distributed_worker(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    num_gpus_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    has_gpu = torch.cuda.is_available()
    if has_gpu and num_gpus_per_machine > torch.cuda.device_count():
        raise AssertionError(
            f"{num_gpus_per_machine} processes need one GPU each; this machine has {torch.cuda.device_count()} GPUs."
        )
    try:
        dist.init_process_group(
            backend="nccl" if has_gpu else "gloo",
            init_method=dist_url,
            world_size=world_size,
            rank=machine_rank * num_gpus_per_machine + local_rank,
            timeout=timeout,
        )
    except Exception:
        logging.getLogger("detectron2.engine.launch").error("Process group URL: %s", dist_url)
        raise
    comm.create_local_process_group(num_gpus_per_machine)
    if has_gpu:
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    main_func(*args)
