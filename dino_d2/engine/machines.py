# SPDX-License-Identifier: Apache-2.0
"""Reports of dead ranks between machines, through the store of the process group."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")

#: Keys of the store: a sentence about a death, a call to all ranks, and the answer of each of them.
DEATH, CALL, HERE = "dino_d2/death", "dino_d2/call", "dino_d2/here/"
#: Seconds that a rank stays after it has told of a death: the store may be a part of its process.
FAREWELL = 2.0

SILENT = (
    "gives no answer: killed or crashed, or the machine cannot be reached. The output there may say more. Run the same "
    "command on each machine with --resume to continue from the last checkpoint"
)


class Machines:
    """One rank's access to the news.

    Args:
        rank: of this process.
        world_size: number of ranks.
    """

    def __init__(self, rank: int, world_size: int):
        self.rank, self.world_size = rank, world_size
        self.store = dist.distributed_c10d._get_default_store().clone()  # for one thread
        self.store.set_timeout(timedelta(seconds=10))
        self.lost = False

    def tell(self, words: str) -> None:
        """Tell all machines of a death."""
        self._try(lambda: self.store.set(DEATH, words))
        if not self.lost:
            time.sleep(FAREWELL)

    def told(self) -> str | None:
        """The sentence that another rank has told."""
        if self._try(lambda: self.store.check([DEATH])):
            words = self._try(lambda: self.store.get(DEATH))
            return words.decode() if words else None
        return None

    def call(self) -> None:
        """Ask all ranks to answer."""
        self._try(lambda: self.store.set(CALL, ""))
        self.answer()

    def answer(self) -> None:
        """Answer if a rank has called."""
        if self._try(lambda: self.store.check([CALL])):
            self._try(lambda: self.store.set(f"{HERE}{self.rank}", ""))

    def silent(self) -> str | None:
        """A sentence about the ranks that have not answered; None if all have."""
        missing = [str(rank) for rank in range(self.world_size) if not self._answered(rank)]
        if self.lost:
            return f"rank 0, at which the machines have met, {SILENT}"
        return f"rank {', rank '.join(missing)} {SILENT}" if missing else None

    def _answered(self, rank: int) -> bool | None:
        return self._try(lambda: self.store.check([f"{HERE}{rank}"]))

    def _try(self, operation: Callable[[], T]) -> T | None:
        """The result of an operation of the store; None if the store is lost, as with the process that ran it."""
        if self.lost:
            return None
        try:
            return operation()
        except RuntimeError:
            self.lost = True
            return None
