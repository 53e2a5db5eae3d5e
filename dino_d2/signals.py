# SPDX-License-Identifier: Apache-2.0
"""Turns termination signals into an exception, so that temporary files are removed before the process ends."""

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

#: Those of batch systems (SIGTERM, SIGUSR1), of Ctrl-C and of a closed terminal.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
#: Seconds in which more signals count as the first one: `timeout`, torchrun and the process that started the ranks
#: signal a process that its process group's signal reaches as well.
SAME = 1.0


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


class SignalThread:
    """A thread that sees the signals to this process, even while the main thread waits and runs no handlers.

    The interpreter writes the number of each signal that has a handler to a pipe as soon as it arrives.

    Args:
        run: what the thread does with this object. It calls :meth:`wait` again and again, until that returns `CLOSED`.
    """

    #: In place of a signal's number; no signal has it.
    CLOSED = 0

    def __init__(self, run: Callable[["SignalThread"], None]):
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.write_end, False)
        self.previous = signal.set_wakeup_fd(self.write_end, warn_on_full_buffer=False)
        _written_to.add(self.write_end)
        self.thread = threading.Thread(target=run, args=(self,), daemon=True)
        self.thread.start()

    def wait(self, seconds: float | None) -> int | None:
        """The number of the next signal; None if there was none for this time."""
        ready, _, _ = select.select([self.read_end], [], [], seconds)
        return os.read(self.read_end, 1)[0] if ready else None

    def close(self) -> None:
        """End the thread."""
        signal.set_wakeup_fd(self.previous)
        _written_to.discard(self.write_end)
        os.write(self.write_end, bytes([self.CLOSED]))  # forked workers hold this end too: closing it ends nothing
        self.thread.join()
        os.close(self.write_end)
        os.close(self.read_end)


_written_to: set[int] = set()


def _stop_writing() -> None:
    """In a forked process: its signals are not those of the process that it was forked from."""
    if _written_to:
        signal.set_wakeup_fd(-1)
        _written_to.clear()


os.register_at_fork(after_in_child=_stop_writing)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise :class:`Interrupted` for each of `SIGNALS` inside this context, and once for those that come together.

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
    raised = -math.inf

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal raised
        if os.getpid() == process:
            if time.monotonic() - raised > SAME:
                raised = time.monotonic()
                raise Interrupted(number)
            return
        if number == signal.SIGTERM:  # a forked worker: ended by the process that it works for
            os._exit(128 + number)

    previous = {number: signal.signal(number, handle) for number in numbers} if in_main_thread() else {}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
