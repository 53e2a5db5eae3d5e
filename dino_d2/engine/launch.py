# SPDX-License-Identifier: Apache-2.0
"""The processes of a run: those that torchrun has started, or those of Detectron2's ``launch``."""

import contextlib
import gc
import logging
import os
import resource
import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from dino_d2.detectron2.engine import DEFAULT_TIMEOUT
from dino_d2.detectron2.engine import launch as detectron2_launch
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.signals import SIGNALS, name_of
from dino_d2.speed import keep_freed_memory

from . import ranks
from .forwarding import Forwarding
from .records import RUNNING, Record, RecordFile, first_dead


def launch(main: Callable[[Namespace], None], args: Namespace) -> None:
    """Run ``main(args)`` on every rank: one per GPU over NCCL, or one per process over gloo where there is no CUDA.

    Under ``torchrun`` this process is one of the ranks already; otherwise ``args.num_gpus`` processes are started on
    each of ``args.num_machines`` machines, which meet at ``args.dist_url``.

    Args:
        main: a function at the top level of its module.
        args: of Detectron2's ``default_argument_parser``.

    Raises:
        UserError: more processes than GPUs, processes from both sides, numbers that cannot be, or a rank was killed.
    """
    raise_descriptor_limit()
    if args.num_gpus < 1 or args.num_machines < 1:
        raise UserError("--num-gpus and --num-machines must be at least 1; without a GPU --num-gpus 1 runs on the CPU")
    if not 0 <= args.machine_rank < args.num_machines:
        last = args.num_machines - 1
        raise UserError(f"--machine-rank {args.machine_rank}: with {last + 1} machines it must be 0 to {last}")
    if dist.is_torchelastic_launched():
        if args.num_gpus * args.num_machines > 1:
            raise UserError("torchrun has started the processes already: leave --num-gpus and --num-machines out")
        _join_torchrun()
        _run(main, args, None)
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else None
    if gpus is not None and args.num_gpus > gpus:
        raise UserError(f"--num-gpus {args.num_gpus}, but this machine has {gpus}. Give at most --num-gpus {gpus}")
    if args.num_gpus * args.num_machines == 1:
        _run(main, args, None)
        return
    with tempfile.TemporaryDirectory(prefix="dino_d2_ranks_") as folder:
        _launch_ranks(main, args, Path(folder))


def _launch_ranks(main: Callable[[Namespace], None], args: Namespace, folder: Path) -> None:
    """Start this machine's ranks and wait for them.

    Args:
        folder: for what the ranks tell each other and this process.

    Raises:
        UserError: a rank was killed.
    """
    records = [RecordFile(folder, local_rank) for local_rank in range(args.num_gpus)]
    # If a rank is killed, its last words are ours; PyTorch and Python would add that others end and what it left.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    if args.num_machines > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost store is a warning with a C++ traceback
    with Forwarding(records) as forwarding:
        try:
            detectron2_launch(
                _run,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(main, args, folder),
            )
        except (ProcessExitedException, ProcessRaisedException) as error:
            if forwarding.killed or (forwarding.received and getattr(error, "exit_code", 0) == -forwarding.received):
                print(f"Stopped by {name_of(forwarding.received)} before the run had begun.", file=sys.stderr)
                sys.exit(128 + forwarding.received)
            rank = args.machine_rank * args.num_gpus + error.error_index
            if isinstance(error, ProcessRaisedException):
                sys.exit(f"error: rank {rank} (process {error.error_pid}) ended with an exception:{error}")
            if error.exit_code < 0:
                record = records[error.error_index].read() or Record(rank, error.error_pid)
                raise UserError(record.obituary(error.signal_name)) from error
            killed = first_dead(records)
            if killed and killed.state == RUNNING:  # it died shortly before the rank that was noticed first
                raise UserError(killed.obituary()) from error
            sys.exit(error.exit_code)  # the rank has said why in its own words


def raise_descriptor_limit() -> None:
    """Let this process and those it starts open as many files as the system allows.

    The usual 1,024 are few for loading processes, whose batches need a file descriptor each.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS names a hard limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _join_torchrun() -> None:
    """Do for a process of torchrun what Detectron2's ``launch`` does for its own."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=DEFAULT_TIMEOUT)
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    comm.synchronize()


def _run(main: Callable[[Namespace], None], args: Namespace, folder: Path | None) -> None:
    if not torch.cuda.is_available():
        # Each rank would otherwise take all cores of the machine, and all of them would wait for each other.
        torch.set_num_threads(max(1, torch.get_num_threads() // comm.get_local_size()))
        keep_freed_memory()
    with ranks.watching(folder):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked by the process that started this one
        main(args)
        leave_process_groups()


def leave_process_groups() -> None:
    """Wait for the other ranks, then end this one's groups and their threads.

    A thread of gloo that is still busy when Python ends aborts the process. Such threads live as long as anything
    refers to their group, so ``torch.distributed.destroy_process_group`` alone does not end them.
    """
    if not dist.is_initialized():
        return
    comm.synchronize()
    ranks.leave()
    dist.destroy_process_group()
    # In either engine comm keeps groups in variables and caches, under names of its own.
    for name, value in list(vars(comm).items()):
        if isinstance(value, dist.ProcessGroup):
            setattr(comm, name, None)
        elif hasattr(value, "cache_clear"):
            value.cache_clear()
    gc.collect()  # DistributedDataParallel keeps a group too, and reference cycles keep it
