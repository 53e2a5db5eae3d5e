# SPDX-License-Identifier: Apache-2.0
"""Records of the ranks of one machine, in files that outlive them: process id, activity, and why a rank ended.

A rank holds a lock on its file, which the system releases when the process ends, however it ends.
"""

import dataclasses
import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path

#: States of a rank. One that FOLLOWED ended because another one had died.
RUNNING, LEFT, FOLLOWED, FAILED = "running", "left", "followed", "failed"

HINT = (
    "SIGKILL often means that the machine's memory was full: `dmesg` says so; fewer dataloader.train.num_workers need "
    "less. Run the same command with --resume to continue from the last checkpoint"
)


@dataclasses.dataclass
class Record:
    """What a rank tells the others.

    Attributes:
        rank: among the ranks of all machines.
        process: its id; 0 before the rank has started.
        activity: what it is doing, as in "while ...".
        state: one of the states above.
        error: why it FAILED.
    """

    rank: int
    process: int = 0
    activity: str = "while starting"
    state: str = RUNNING
    error: str = ""

    def obituary(self, signal_name: str | None = None) -> str:
        """A sentence about the death of this rank."""
        who = f"rank {self.rank} (process {self.process})"
        if self.state == FAILED:
            return f"{who} ended with an error {self.activity}: {self.error}"
        how = f"was killed by {signal_name}" if signal_name else "was killed or crashed"
        return f"{who} {how} {self.activity}. {HINT}"


class RecordFile:
    """The record of one rank, and the lock that shows whether its process is alive.

    Args:
        folder: shared by the ranks of this machine.
        local_rank: of the rank whose record it is.
    """

    def __init__(self, folder: Path, local_rank: int):
        self.file = os.open(folder / f"rank{local_rank}", os.O_RDWR | os.O_CREAT, 0o600)

    def hold(self) -> None:
        """Lock it until this process ends. A record lock is not inherited by the processes that this one forks."""
        fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_held(self) -> bool:
        try:
            fcntl.lockf(self.file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        fcntl.lockf(self.file, fcntl.LOCK_UN)
        return False

    def write(self, record: Record) -> None:
        os.pwrite(self.file, json.dumps(dataclasses.asdict(record)).encode() + b"\n", 0)

    def read(self) -> Record | None:
        """None before the rank has written one."""
        line, end, _ = os.pread(self.file, 2**16, 0).partition(b"\n")
        return Record(**json.loads(line)) if end else None

    def close(self) -> None:
        os.close(self.file)


def first_dead(records: Sequence[RecordFile]) -> Record | None:
    """The rank, of one machine, that died first of its own accord: one with an error before one that was killed."""
    dead = []
    for file in records:
        held = file.is_held()  # before reading: the last words are written while the lock is held
        record = file.read()
        if record and (record.state == FAILED or (record.state == RUNNING and not held)):
            dead.append(record)
    return min(dead, key=lambda record: record.state != FAILED, default=None)
