# SPDX-License-Identifier: Apache-2.0
"""A live progress line on a terminal; elsewhere the log has the same figures."""

import contextlib
import logging
import resource
import sys

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from dino_d2.detectron2.engine import HookBase


class LiveLine(HookBase):
    """Iteration, speed, remaining time, loss, learning rate and memory on one line that is rewritten.

    Args:
        max_iter: iterations in all.
    """

    def __init__(self, max_iter: int):
        self.max_iter = max_iter

    def before_train(self) -> None:
        self.resources = contextlib.ExitStack()
        live = sys.stderr.isatty()
        if live:
            # Log lines go above the live line instead of through it.
            loggers = [logging.getLogger(name) for name in ("detectron2", "dino_d2", "fvcore")]
            self.resources.enter_context(logging_redirect_tqdm(loggers))
        bar = tqdm(total=self.max_iter, initial=self.trainer.iter, unit="it", disable=not live, dynamic_ncols=True)
        self.bar = self.resources.enter_context(bar)

    def after_step(self) -> None:
        if not self.bar.disable:
            latest = self.trainer.storage.latest()
            values: dict[str, str] = {name: f"{latest[name][0]:.4g}" for name in ("total_loss", "lr") if name in latest}
            values["memory"] = f"{peak_memory_mib():.0f}M"
            self.bar.set_postfix(values, refresh=False)
            self.bar.update()

    def after_train(self) -> None:
        self.resources.close()


def peak_memory_mib() -> float:
    """Peak memory so far in MiB: of the GPU where there is one, otherwise of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB
