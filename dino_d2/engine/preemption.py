# SPDX-License-Identifier: Apache-2.0
"""Save and stop cleanly on a signal: from a batch system that reclaims the machine, Ctrl-C, or a closed terminal."""

import logging
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
from types import FrameType
from typing import Any

import torch.distributed as dist

from dino_d2.detectron2.engine import HookBase, SimpleTrainer
from dino_d2.detectron2.utils import comm
from dino_d2.signals import SAME, SIGNALS, SignalThread, in_main_thread, name_of

from .checkpointer import AtomicCheckpointer
from .collective import largest_of_ranks

logger = logging.getLogger(__name__)

#: Signals of batch systems, which expect a process that has saved to end with status 0.
EXPECTED = (signal.SIGTERM, signal.SIGUSR1)
#: Seconds that a signalled rank waits for its data loader; without the batch, the ranks cannot save together.
PATIENCE = 30.0


class TrainingStopped(BaseException):
    """Training was asked to stop and has saved. Not an `Exception`, so that the trainer does not log it as an error.

    Attributes:
        status: for the exit of the process: 0 after signals of batch systems, otherwise 128 + the signal's number.
    """

    def __init__(self, number: int):
        super().__init__(name_of(number))
        self.status = 0 if number in EXPECTED else 128 + number


class StopOnSignal(HookBase):
    """All ranks save and stop after the iteration in which any rank received one of `SIGNALS`.

    A single rank that is waiting for its data loader saves and stops at once, with the state after the previous
    iteration. A second signal ends the process at once without saving, whatever the process is waiting for. After a
    signal during the last iteration, training ends normally.

    Register it after the hooks that step something and before evaluation, for which there may be no time. Outside the
    main thread, where Python cannot handle signals, it does nothing on this rank.

    Args:
        checkpointer: writes the checkpoint.
    """

    trainer: SimpleTrainer

    def __init__(self, checkpointer: AtomicCheckpointer):
        self.checkpointer = checkpointer
        self.received: int | None = None
        self.previous: dict[int, Any] = {}
        self.process = os.getpid()
        self.watch: SecondSignal | None = None

    def before_train(self) -> None:
        self.loader_state: dict | None = None
        if not in_main_thread():
            logger.warning("Training is not in the main thread: signals end it without a checkpoint.")
            return
        self.process = os.getpid()
        self.watch = SecondSignal(self.trainer, self.checkpointer.save_dir)
        heeded = [number for number in SIGNALS if number in EXPECTED or signal.getsignal(number) != signal.SIG_IGN]
        self.previous = {number: signal.signal(number, self._note) for number in heeded}

    def before_step(self) -> None:
        loader: Any = self.trainer.data_loader
        self.loader_state = loader.state_dict() if hasattr(loader, "load_state_dict") else None

    def after_step(self) -> None:
        """
        Raises:
            TrainingStopped: on all ranks, after the checkpoint was written.
        """
        number = int(largest_of_ranks(self.received or 0))
        if number and self.trainer.iter + 1 < self.trainer.max_iter:
            self._save_and_stop(number)

    def after_train(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.watch is not None:
            self.watch.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or os.getpid() != self.process:  # forked workers leave it to the trainer
            return
        self.received = number
        if getattr(self.trainer, "fetching_since", None) is not None and comm.get_world_size() == 1:
            self._stop_before_step(number)

    def _stop_before_step(self, number: int) -> None:
        """Save the state after the previous iteration: no part of the current one has been computed."""
        if self.trainer.iter == self.trainer.start_iter:
            logger.info("Stopped by %s before the first iteration; there was nothing to save.", name_of(number))
            raise TrainingStopped(number)
        if self.loader_state is not None:
            loader: Any = self.trainer.data_loader
            loader.load_state_dict(self.loader_state)
        self.trainer.iter -= 1
        self._save_and_stop(number)

    def _save_and_stop(self, number: int) -> None:
        iteration = self.trainer.iter
        name = f"model_{iteration:07d}"
        self.checkpointer.save(name, iteration=iteration)
        logger.info(
            "Stopped by %s after iteration %d and saved %s/%s.pth. To go on:\n  %s",
            name_of(number),
            iteration,
            self.checkpointer.save_dir,
            name,
            resume_command(self.checkpointer.save_dir),
        )
        raise TrainingStopped(number)


class SecondSignal:
    """A thread that ends this process on a second signal, whatever the main thread is waiting for.

    Args:
        trainer: with ``fetching_since`` of :class:`~dino_d2.engine.loop.TrainingLoop`, if it has that.
        folder: with the checkpoints; named in the message.
    """

    def __init__(self, trainer: Any, folder: str):
        self.trainer, self.folder = trainer, folder
        self.signals = SignalThread(self._watch)

    def close(self) -> None:
        """Stop watching."""
        self.signals.close()

    def _watch(self, signals: SignalThread) -> None:
        number, first = 0, 0.0
        while (received := signals.wait(1.0)) != SignalThread.CLOSED:
            now = time.monotonic()
            if received in SIGNALS:
                if number and now - first > SAME:
                    self._end(received, "a second signal")
                elif not number:
                    number, first = received, now
            since = getattr(self.trainer, "fetching_since", None)
            if number and since is not None and now - max(first, since) > PATIENCE:
                self._end(number, f"no batch from the data loader for {PATIENCE:.0f} s after the signal")

    def _end(self, number: int, reason: str) -> None:
        print(
            f"Ended by {name_of(number)} at once ({reason}). The last checkpoint in {self.folder} is complete; "
            f"to go on: {resume_command(self.folder)}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(128 + number)


def end_workers() -> None:
    """End the loading processes of this one; at its exit, Python would wait for those that ignore SIGTERM."""
    if in_main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler would report them as failed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def resume_command(folder: str) -> str:
    """This process's command line with --resume.

    Flags must come before values of the config, so it is the first of them, after the verb of the command ``dino_d2``.

    Args:
        folder: the output folder of this run. If its name ends with a number, it may have been chosen because the one
            that the command line names holds another run, so it is named too.
    """
    script, *arguments = sys.argv
    verb = ["train"] if arguments[:1] == ["train"] else []
    words = [argument for argument in arguments[len(verb) :] if argument != "--resume"]
    named = f"train.output_dir={folder}"
    if re.search(r"_\d+$", str(folder)) and named not in words:
        words.append(named)
    return shlex.join([*launcher(script), script, *verb, "--resume", *words])


def launcher(script: str) -> list[str]:
    """The words before the script: python, or torchrun with the same number of ranks; none before a program.

    On several machines each runs its own torchrun, and all must use the same address.
    """
    if not dist.is_torchelastic_launched():
        return ["python"] if script.endswith(".py") else []
    ranks, local_ranks = int(os.environ["WORLD_SIZE"]), os.environ["LOCAL_WORLD_SIZE"]
    machines = ranks // int(local_ranks)
    if machines == 1:
        return ["torchrun", "--standalone", "--nproc-per-node", local_ranks]
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", address]
    return ["torchrun", "--nnodes", str(machines), "--nproc-per-node", local_ranks, *where]
