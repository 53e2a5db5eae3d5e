# SPDX-License-Identifier: Apache-2.0
"""Turns termination signals into an exception, so that temporary files are removed before the process ends."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

#: Those of batch systems (SIGTERM, SIGUSR1), of Ctrl-C and of a closed terminal.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the process to end. Not an `Exception`, so that it is not handled as an error.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int):
        super().__init__(name_of(number))
        self.number = number


def name_of(number: int) -> str:
    return signal.Signals(number).name


def in_main_thread() -> bool:
    """Whether signal handlers can be set here; Python allows it in the main thread only."""
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`Interrupted` for each of `SIGNALS` inside this context.

    Signals that are ignored stay ignored, as under ``nohup``. Outside the main thread this does nothing.
    """
    with _raising([number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]):
        yield


@contextlib.contextmanager
def ended_by_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once inside this context, as during imports, where Python shows a traceback."""
    if not in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def cleaned_up() -> Iterator[None]:
    """Context that is unwound when a signal ends the process, which would otherwise end without clean-up.

    Signals with other handlers are not affected.
    """
    interruption = None
    try:
        with _raising([number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]):
            yield
    except Interrupted as error:
        if signal.getsignal(error.number) != signal.SIG_DFL:  # raised by a handler around this context
            raise
        interruption = error
    if interruption is not None:
        os.kill(os.getpid(), interruption.number)


@contextlib.contextmanager
def _raising(numbers: list[int]) -> Iterator[None]:
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() == process:
            raise Interrupted(number)
        if number == signal.SIGTERM:  # a forked worker: ended by the process that it works for
            os._exit(128 + number)

    previous = {number: signal.signal(number, handle) for number in numbers} if in_main_thread() else {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
