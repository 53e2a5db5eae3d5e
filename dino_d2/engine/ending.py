# SPDX-License-Identifier: Apache-2.0
"""Handles resumed runs that have completed all or more of their iterations."""

import logging
import shutil
from pathlib import Path

from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.files import write_atomically

from .best_checkpoint import BestCheckpoint
from .checkpointer import FINAL, AtomicCheckpointer

logger = logging.getLogger("dino_d2")


def check_iterations(path: str, done: int, max_iter: int) -> None:
    """
    Args:
        path: the checkpoint that the run is resumed from.
        done: iterations that it has behind it.

    Raises:
        UserError: more than ``train.max_iter``.
    """
    if done > max_iter:
        raise UserError(
            f"--resume: {path} was saved after {done} iterations, but train.max_iter={max_iter}. Give "
            f"train.max_iter={done} or more to continue; to use the weights as they are, evaluate them with "
            f"--eval-only train.init_checkpoint={path}"
        )


def is_finished(path: str, done: int, max_iter: int, best: "BestCheckpoint | None" = None) -> bool:
    """Whether nothing is left to do: ``path`` is the final checkpoint of a run of this length, or of a run that early
    stopping has ended. Says so in the log.

    Args:
        path: the checkpoint that the run is resumed from.
        done: iterations that it has behind it.
        max_iter: iterations of the run in all.
        best: with the state of the checkpoint; None if the run keeps no best weights.
    """
    if Path(path).name != FINAL or (best is not None and not best.history.has(done - 1)):
        return False
    if done == max_iter:
        logger.info(
            "The run has finished: %d of %d iterations are done and %s is written. To train longer, give a larger "
            "train.max_iter; to evaluate it again, use --eval-only train.init_checkpoint=%s",
            done,
            max_iter,
            path,
            path,
        )
        return True
    if best is not None and best.has_lost_patience:
        logger.info(
            "The run has finished: early stopping has ended it after %d of %d iterations (evaluations in a row without "
            "a better %s: %d), and %s is written. To train on, give a train.early_stopping.patience above %d, or null",
            done,
            max_iter,
            best.history.metric,
            best.history.since_best,
            path,
            best.history.since_best,
        )
        return True
    return False


def write_final(checkpointer: AtomicCheckpointer, path: str) -> None:
    """Write the final checkpoint of a run that ended between its last periodic checkpoint and the final one.

    Both have the same content, so the file is copied.
    """
    if comm.is_main_process():
        final = Path(checkpointer.save_dir) / FINAL
        with open(path, "rb") as source:
            write_atomically(final, lambda file: shutil.copyfileobj(source, file))
        checkpointer.tag_last_checkpoint(FINAL)
        logger.info("All iterations are done: copied %s to %s", path, final)
