# SPDX-License-Identifier: Apache-2.0
"""Save and stop cleanly on SIGTERM and SIGUSR1, the signals of batch systems that reclaim a machine."""

import logging
import multiprocessing
import os
import shlex
import signal
import sys
from types import FrameType
from typing import Any

from dino_d2.detectron2.engine import HookBase

from .checkpointer import AtomicCheckpointer
from .collective import any_rank

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class TrainingStopped(BaseException):
    """Training was asked to stop and has saved. Not an `Exception`, so that the trainer does not log it as an error."""


class StopOnSignal(HookBase):
    """All ranks save and stop after the iteration in which any rank received SIGTERM or SIGUSR1.

    Register it after the hooks that step something and before evaluation, for which there may be no time. After a
    signal during the last iteration, or later, training ends normally.

    Args:
        checkpointer: writes the checkpoint.
    """

    def __init__(self, checkpointer: AtomicCheckpointer):
        self.checkpointer = checkpointer
        self.received: str | None = None
        self.previous: dict[int, Any] = {}

    def before_train(self) -> None:
        self.previous = {number: signal.signal(number, self._note) for number in SIGNALS}

    def after_step(self) -> None:
        """
        Raises:
            TrainingStopped: on all ranks, after the checkpoint was written.
        """
        iteration = self.trainer.iter
        if not any_rank(self.received is not None) or iteration + 1 == self.trainer.max_iter:
            return
        name = f"model_{iteration:07d}"
        self.checkpointer.save(name, iteration=iteration)
        logger.info(
            "Stopped by %s after iteration %d and saved %s/%s.pth. To go on:\n  %s",
            self.received or "a signal to another rank",
            iteration,
            self.checkpointer.save_dir,
            name,
            resume_command(),
        )
        raise TrainingStopped

    def after_train(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name


def forward_signals() -> None:
    """Forward the signals to the ranks, in the process that starts them and waits for them."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        ranks = multiprocessing.active_children()
        for rank in ranks:
            if rank.pid is not None:
                os.kill(rank.pid, number)
        if not ranks:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in SIGNALS:
        signal.signal(number, hand_on)


def resume_command() -> str:
    """This process's command line with --resume; flags go before the config's values, so it comes first."""
    script, *arguments = sys.argv
    return shlex.join(["python", script, "--resume", *(a for a in arguments if a != "--resume")])
