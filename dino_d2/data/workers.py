# SPDX-License-Identifier: Apache-2.0
"""The loading processes: how they start, and which image each of them reads, for messages if one dies or hangs."""

import contextlib
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import get_worker_info

from dino_d2.errors import UserError

logger = logging.getLogger(__name__)

#: Seconds without a batch after which the log says so; then again after each doubling.
PATIENCE = 60.0
#: Fields of a worker's row: its process id, the index of its image plus 1 (0 while it reads none), and since when.
PID, IMAGE, SINCE = range(3)
FIELDS = 3


class Reading:
    """The image that each loading process is reading, in memory shared with the main process.

    Args:
        num_workers: loading processes; with 0, the main process reads the images.
    """

    def __init__(self, num_workers: int):
        # Doubles hold process ids and indices exactly.
        self.rows = multiprocessing.RawArray("d", FIELDS * max(num_workers, 1))

    def set_pid(self, worker: int, pid: int) -> None:
        self.rows[FIELDS * worker + PID] = pid

    @contextlib.contextmanager
    def of(self, index: int) -> Iterator[None]:
        """While this process reads the image with this index."""
        worker = get_worker_info()
        start = FIELDS * (0 if worker is None else worker.id)
        self.rows[start + SINCE] = time.monotonic()
        self.rows[start + IMAGE] = index + 1
        yield
        self.rows[start + IMAGE] = 0

    def workers(self) -> Iterator[tuple[int, int, int | None, float]]:
        """(number, process id, index of the image or None, seconds since it began with it) of each worker."""
        now = time.monotonic()
        for worker in range(len(self.rows) // FIELDS):
            pid, image, since = self.rows[FIELDS * worker : FIELDS * (worker + 1)]
            yield worker, int(pid), int(image) - 1 if image else None, now - since


def explain_death(error: Exception, reading: Reading, dicts: Any, key: str, what_to_do: str = "") -> UserError | None:
    """A message about the death of a loading process; None if ``error`` is another error.

    Args:
        error: raised by PyTorch's loader.
        reading: of the loading processes.
        dicts: dataset dicts by index.
        key: of the config, the number of loading processes.
        what_to_do: a last sentence.
    """
    try:
        return _explain_death(error, reading, dicts, key, what_to_do)
    except RuntimeError as died:  # PyTorch's handler of SIGCHLD raises it at any moment, also while this runs
        return _explain_death(died, reading, dicts, key, what_to_do)


def _explain_death(error: Exception, reading: Reading, dicts: Any, key: str, what_to_do: str) -> UserError | None:
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (.*)", str(error), re.DOTALL)
    if found:
        pids = [int(pid) for pid in found[1].split(",")]
        reason = found[2].splitlines()[0].split(". It is possible")[0].rstrip(". ")
    elif isinstance(error, ConnectionError | EOFError | FileNotFoundError):
        # The worker died before the main process had received a batch that it had sent.
        pids, reason = _ended(reading), "exited unexpectedly"
    else:
        pids = []
    if not pids:
        return None
    dead = [(worker, pid, index) for worker, pid, index, _ in reading.workers() if pid in pids]
    names = [f"worker {worker} (process {pid}), {_activity(index, dicts)}," for worker, pid, index in dead]
    if not dead:  # it died before it had recorded its process id, or it is of another loader
        key = "dataloader.train.num_workers or dataloader.test.num_workers"
    return UserError(
        f"The data loader's {' and '.join(names) or f'process {pids[0]}'} {reason}. A worker that is killed often "
        f"means that the machine's memory was full: `dmesg` says so, and fewer {key} need less. One that crashes may "
        f"have met a damaged image: look at it, or try {key}=0. {what_to_do}".rstrip(". ")
    )


def _ended(reading: Reading) -> list[int]:
    """Process ids of the loading processes that have ended; a process ends shortly after its connections."""
    deadline = time.monotonic() + 1
    while True:
        running = {child.pid for child in multiprocessing.active_children()}
        ended = [pid for _, pid, _, _ in reading.workers() if pid and pid not in running]
        if ended or time.monotonic() > deadline:
            return ended
        time.sleep(0.05)


def _activity(index: int | None, dicts: Sequence[dict]) -> str:
    if index is None:
        return "which was not reading an image"
    return f"which was reading {describe(dicts[index])}"


def describe(image: dict) -> str:
    """The file of a dataset dict, with its image id."""
    return f"{image.get('file_name', 'an image without a file name')} (image id {image.get('image_id', 'unknown')})"


class Watch:
    """Logs, while the main process waits for a batch, how long it has waited and what each loading process is doing.

    Args:
        reading: of the loading processes.
        dicts: dataset dicts by index.
    """

    def __init__(self, reading: Reading, dicts: Any):
        self.reading, self.dicts = reading, dicts

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While the main process waits for one batch."""
        arrived = threading.Event()
        thread = threading.Thread(target=self._report, args=(arrived,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            arrived.set()

    def _report(self, arrived: threading.Event) -> None:
        waited, patience = 0.0, PATIENCE
        while not arrived.wait(patience - waited):
            logger.warning("No batch from the data loader for %.0f s: %s.", patience, "; ".join(self._activities()))
            waited, patience = patience, 2 * patience

    def _activities(self) -> Iterator[str]:
        for worker, pid, index, seconds in self.reading.workers():
            who = f"worker {worker} (process {pid})" if pid else "the main process"
            if index is None:
                yield f"{who} is not reading an image"
            else:
                yield f"{who} has been reading {describe(self.dicts[index])} for {seconds:.0f} s"


def start_worker(main_pid: int, reading: Reading, worker_id: int) -> None:
    """Note a worker's process id, and make it ignore the signals that a batch system sends to all processes of a job.

    Workers must keep running until the main process has saved a checkpoint. SIGTERM from the main process still ends
    a worker, because Python ends its workers with it on exit.
    """
    reading.set_pid(worker_id, os.getpid())
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A signal handler does not learn the sender; sigwaitinfo does.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_with, args=(main_pid,), daemon=True).start()


def _leave_with(main_pid: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main_pid:
        pass
    os._exit(0)
