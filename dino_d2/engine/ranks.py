# SPDX-License-Identifier: Apache-2.0
"""Ranks watch over each other: when one dies, the others say which one in one line, and end.

A rank that loses another one gets an error of gloo or NCCL that names neither the rank nor the reason, or waits in a
collective operation without end. On one machine, ranks read each other's records (``records.py``). Machines tell each
other through the store at which they have met (``machines.py``).
"""

import contextlib
import dataclasses
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dino_d2.data.workers import describe
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.signals import name_of

from .machines import Machines
from .records import FAILED, FOLLOWED, LEFT, RUNNING, Record, RecordFile, first_dead

logger = logging.getLogger(__name__)

#: Seconds in which a rank that has lost a connection looks for the rank that died, and waits for other machines to
#: tell it or to answer.
SEARCH = 5.0
#: Seconds after which a rank that is still waiting for a dead one is ended; NCCL may wait without end.
PATIENCE = 10.0
#: Seconds between two looks at the other ranks.
PERIOD = 0.5
#: Images that are named at most, and characters of an error.
IMAGES, CHARACTERS = 8, 500


class RankDied(UserError):
    """Another rank has died; the message was printed already, by one rank of each machine."""


class Watch:
    """This rank's record, and a thread that ends this process if it goes on waiting for a rank that has died.

    Args:
        records: of the ranks of this machine, in order; all of them are alive.
        local_rank: of this process among them.
        parent_tells: the process that started the ranks of this machine reports those that were killed.
    """

    def __init__(self, records: list[RecordFile], local_rank: int, parent_tells: bool):
        self.records, self.local_rank, self.parent_tells = records, local_rank, parent_tells
        self.others = [file for i, file in enumerate(records) if i != local_rank]
        self.record = Record(comm.get_rank(), os.getpid())
        self.machines: Machines | None = None
        if comm.get_world_size() > len(records):
            self.machines = Machines(comm.get_rank(), comm.get_world_size())
        self.telling = threading.Lock()
        self.told = False
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def begin(self) -> None:
        self.write()
        self.thread.start()

    def write(self, **changes: Any) -> None:
        """Change fields of this rank's record."""
        self.record = dataclasses.replace(self.record, **changes)
        self.records[self.local_rank].write(self.record)

    def leave(self) -> None:
        """The run is over on all ranks."""
        self.write(state=LEFT)
        self.close()

    def fail(self, error: str) -> None:
        """This rank ends with an error of its own."""
        self.close()
        if self.record.state == RUNNING:
            self.write(state=FAILED, error=error[:CHARACTERS])
            if self.machines:
                self.machines.tell(self.record.obituary())

    def close(self) -> None:
        self.closed.set()
        self.thread.join(2 * PERIOD)  # it may be waiting for a store that is gone

    def death(self, patience: float) -> str | None:
        """A sentence about the rank that died, printed by one rank of each machine; None if all seem to be alive.

        Args:
            patience: seconds to wait for the news.
        """
        if self.machines and patience:
            self.machines.call()
        deadline = time.monotonic() + patience
        while True:
            if dead := first_dead(self.others):
                return self._tell(dead.obituary(), dead)
            if self.machines and (words := self.machines.told()):
                return self._tell(words)
            if time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        if self.machines and patience and (words := self.machines.silent()):
            return self._tell(words)
        return None

    def _tell(self, words: str, dead: Record | None = None) -> str:
        with self.telling:
            if not self.told:
                self.told = True
                self.write(state=FOLLOWED)
                if self._speaks(dead):
                    print(f"error: {words}", file=sys.stderr, flush=True)
                if dead and self.machines:
                    self.machines.tell(words)
        return words

    def _speaks(self, dead: Record | None) -> bool:
        """Whether this rank is the first of its machine that did not die itself."""
        if dead and dead.state == RUNNING and self.parent_tells:
            return False
        before = [first_dead([file]) for file in self.records[: self.local_rank]]
        return all(before)

    def _look(self) -> None:
        machines = Machines(self.machines.rank, self.machines.world_size) if self.machines else None
        since = None
        while not self.closed.wait(PERIOD):
            if machines:
                machines.answer()
            if since is None:
                since = time.monotonic() if first_dead(self.others) or (machines and machines.told()) else None
            elif time.monotonic() - since > PATIENCE:
                self.death(0)
                os._exit(1)


_watch: Watch | None = None


@contextlib.contextmanager
def watching(folder: Path | None) -> Iterator[None]:
    """Watch over the other ranks inside this context, which all ranks enter together.

    Args:
        folder: for the records, made by a process that has started the ranks of this machine and reports those that
            were killed; None if there is no such process.
    """
    global _watch
    if comm.get_world_size() == 1:
        yield
        return
    with _records(folder) as records:
        if records is None:
            logger.warning("%s has no file locks: the death of a rank cannot be explained.", tempfile.gettempdir())
            yield
            return
        _watch = Watch(records, comm.get_local_rank(), parent_tells=folder is not None)
        _watch.begin()
        comm.synchronize()  # all records are written
        try:
            yield
        except BaseException as error:
            _watch.fail(last_words(error))
            raise
        finally:
            _watch.close()
            _watch = None


@contextlib.contextmanager
def _records(folder: Path | None) -> Iterator[list[RecordFile] | None]:
    """The records of this machine's ranks, all of them held; None where the system has no locks."""
    local_rank, local_size = comm.get_local_rank(), comm.get_local_size()
    own = tempfile.mkdtemp(prefix="dino_d2_ranks_") if folder is None and local_rank == 0 else None
    first = comm.get_rank() - local_rank
    folder = folder or Path(comm.all_gather(own)[first])
    records = [RecordFile(folder, i) for i in range(local_size)]
    records[local_rank].write(Record(comm.get_rank(), os.getpid()))
    try:
        try:
            records[local_rank].hold()
            held = True
        except OSError:
            held = False
        all_held = all(comm.all_gather(held))  # all ranks have opened all files: the folder is no longer needed
        if own:
            shutil.rmtree(own)
        yield records if all_held else None
    finally:
        for file in records:
            file.close()


def last_words(error: BaseException) -> str:
    """Why a rank ends, in one line."""
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            return f"stopped by {name_of(error.code - 128)}" if error.code > 128 else f"exit status {error.code}"
        return " ".join(str(error.code).removeprefix("error: ").split())
    return " ".join(f"{type(error).__name__}: {error}".split())


def note(activity: str) -> None:
    """Write down for the other ranks what this one is doing, as in "while loading its first batch"."""
    if _watch:
        _watch.write(activity=activity)


def note_images(doing: str, batch: Sequence[dict]) -> None:
    """Write down for the other ranks with which images this one is working.

    Args:
        doing: as in "training on".
        batch: dicts with a "file_name" and an "image_id".
    """
    if _watch:
        more = f" and {len(batch) - IMAGES} more" if len(batch) > IMAGES else ""
        note(f"while {doing} {', '.join(describe(image) for image in batch[:IMAGES])}{more}")


def leave() -> None:
    """Call this when all ranks have come to the end of the run: their ends are no deaths."""
    if _watch:
        _watch.leave()


def death(patience: float = 0.0) -> RankDied | None:
    """The error of a rank that has died, for this one to end with; None if there is none."""
    words = _watch.death(patience) if _watch else None
    return RankDied(words) if words else None


def death_behind(error: BaseException) -> RankDied | None:
    """The death of a rank that caused an error of a collective operation; None if ``error`` has another cause."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not (
        isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text
    ):
        return None
    return death(SEARCH)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """
    Raises:
        RankDied: in place of an error of a collective operation, if a rank has died.
    """
    try:
        yield
    except RuntimeError as error:
        found = death_behind(error)
        if found is None:
            raise
        raise found from error
