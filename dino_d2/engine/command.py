# SPDX-License-Identifier: Apache-2.0
"""What `train_net.py`, `dino_d2 train` and `dino_d2 eval` run."""

import contextlib
import signal
import sys
from argparse import Namespace
from pathlib import Path

import torch

from dino_d2.data.check import DatasetError
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.signals import Interrupted, interruptible

from .config import begin, load_config
from .launch import launch, leave_process_groups
from .output_folder import check_entries, explained, reserved
from .preemption import TrainingStopped, end_workers
from .run import evaluate, train
from .setup import disk_errors_of_threads_in_a_line
from .trainer import NonFiniteLossError

OUT_OF_MEMORY = (
    "the GPU's memory is too small for this. What helps, in this order (docs/custom_data.md has figures): "
    "train.amp.enabled=True; half of dataloader.train.total_batch_size and twice train.accumulate; "
    "model.detector.encoder.activation_checkpointing=True; smaller images, by "
    "dataloader.train.mapper.augmentations.max_size=1000."
)


def main(args: Namespace) -> None:
    """Train, resume or evaluate on this rank; mistakes of the user end the process with one line.

    Args:
        args: of Detectron2's ``default_argument_parser``.
    """
    try:
        with interruptible(), disk_errors_of_threads_in_a_line():
            cfg = load_config(args)
            folder = Path(cfg.train.output_dir)
            check_entries(folder)
            writes_checkpoints = comm.is_main_process() and not args.eval_only
            with explained(folder), reserved(folder) if writes_checkpoints else contextlib.nullcontext():
                begin(cfg, args)
                if args.eval_only:
                    evaluate(cfg)
                else:
                    train(cfg, resume=args.resume)
    except TrainingStopped as stopped:
        if stopped.status:
            leave_process_groups()
            sys.exit(stopped.status)
    except Interrupted as interrupted:
        if comm.is_main_process():
            print(f"Stopped by {interrupted}. Checkpoints that were written are complete.", file=sys.stderr)
        sys.exit(128 + interrupted.number)
    except (UserError, DatasetError, NonFiniteLossError) as error:
        sys.exit(f"error: {error}")
    except torch.OutOfMemoryError as error:
        sys.exit(f"error: {OUT_OF_MEMORY}\nPyTorch says: {error}")
    finally:
        end_workers()


def launch_main(args: Namespace) -> None:
    """`main` on every rank that ``args`` asks for."""
    try:
        launch(main, args)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # before the run itself has begun
        sys.exit(128 + signal.SIGINT)
