# SPDX-License-Identifier: Apache-2.0
"""Forwards signals from the process that started the ranks to the ranks."""

import contextlib
import multiprocessing.process
import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

from dino_d2.signals import SIGNALS, SignalThread

from .records import RecordFile


class Forwarding:
    """Context in which signals to this process are forwarded to the ranks that it starts.

    Ranks start with these signals blocked, and unblock them when they can handle them: Ctrl-C in a terminal reaches
    them too, and would otherwise end them with a traceback while they import. As long as a rank cannot handle signals
    there is nothing to save, and a signal kills all ranks.

    A thread forwards, because the main thread waits for the ranks and has the signals blocked.

    Args:
        records: of the ranks; a rank that can handle signals has written its own.

    Attributes:
        received: number of the first signal.
        killed: all ranks were killed, because the signal came too early.
    """

    def __init__(self, records: Sequence[RecordFile]):
        self.records = records
        self.received = 0
        self.killed = False
        self.process = os.getpid()
        self.children_of_others = _pids_of_children()

    def __enter__(self) -> "Forwarding":
        self.heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self.handlers: dict[int, Any] = {number: signal.signal(number, self._leave_to_thread) for number in self.heeded}
        self.thread = SignalThread(self._forward)  # before the signals are blocked, so that they are delivered to it
        self.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.heeded)
        return self

    def __exit__(self, *error: object) -> None:
        self.thread.close()
        for number, handler in self.handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)

    def _leave_to_thread(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a forked rank that does not handle signals now
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _forward(self, signals: SignalThread) -> None:
        while (number := signals.wait(0.2 if self.killed else None)) != SignalThread.CLOSED:
            ranks = _pids_of_children() - self.children_of_others
            if number in self.heeded and not self.received:
                self.received = number
                self.killed = not all(file.read() for file in self.records)
            if self.killed:  # also those that were started since
                number = signal.SIGKILL
            for rank in ranks:
                if number in (*self.heeded, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(rank, number)


def _pids_of_children() -> set[int]:
    """Of the processes that `multiprocessing` has started and not yet waited for.

    Its `active_children` would fetch exit statuses for which the main thread is waiting.
    """
    return {child.pid for child in getattr(multiprocessing.process, "_children", ()) if child.pid is not None}
