# SPDX-License-Identifier: Apache-2.0
"""The commands `train_net.py`, `dino_d2 train` and `dino_d2 eval`."""

import contextlib
import logging
import signal
import sys
from argparse import Namespace
from pathlib import Path

import torch

from dino_d2.data.check import DatasetError
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.signals import Interrupted, interruptible

from . import ranks
from .config import begin, load_config
from .launch import launch, leave_process_groups
from .output_folder import check_entries, explained, folder_of_run, later_runs
from .preemption import TrainingStopped, end_workers
from .run import evaluate, train
from .setup import disk_errors_of_threads_in_a_line
from .trainer import NonFiniteLossError

logger = logging.getLogger("dino_d2")

OUT_OF_MEMORY = (
    "the GPU's memory is too small. Try in this order (docs/custom_data.md has figures): "
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
            given = Path(cfg.train.output_dir)
            writes_nothing = contextlib.nullcontext(given)
            output = writes_nothing if args.eval_only else folder_of_run(given, args.resume)
            with ranks.explained(), output as folder, explained(folder):
                check_entries(folder)
                if folder != given:
                    cfg.train.output_dir = str(folder)
                begin(cfg, args)
                if args.eval_only:
                    evaluate(cfg)
                else:
                    say_which_folder(given, folder, args.resume)
                    train(cfg, resume=args.resume)
    except TrainingStopped as stopped:
        if stopped.status:
            leave_process_groups()
            sys.exit(stopped.status)
    except Interrupted as interrupted:
        if ranks.death():  # the signal is from the launcher, which ends the ranks that are left
            sys.exit(1)
        if comm.is_main_process():
            print(f"Stopped by {interrupted}. Checkpoints that were written are complete.", file=sys.stderr)
        sys.exit(128 + interrupted.number)
    except ranks.RankDied:  # one rank of each machine has said so
        sys.exit(1)
    except (UserError, DatasetError, NonFiniteLossError) as error:
        sys.exit(f"error: {error}")
    except torch.OutOfMemoryError as error:
        sys.exit(f"error: {OUT_OF_MEMORY}\nPyTorch says: {error}")
    finally:
        end_workers()


def say_which_folder(given: Path, folder: Path, resume: bool) -> None:
    """Log that this run, or a later one, writes to another folder because the given one holds a run."""
    if folder != given:
        logger.info(
            "%s holds another run, which is not changed: this run writes to %s. To continue the other run, use "
            "--resume.",
            given,
            folder,
        )
    elif resume and (later := later_runs(given)):
        logger.info(
            "--resume continues the run in %s. A later one is in %s: train.output_dir=%s", given, later[-1], later[-1]
        )


def launch_main(args: Namespace) -> None:
    """`main` on every rank that ``args`` asks for."""
    try:
        launch(main, args)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # before the run itself has begun
        sys.exit(128 + signal.SIGINT)
