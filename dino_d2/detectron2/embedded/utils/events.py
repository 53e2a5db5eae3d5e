# SPDX-License-Identifier: Apache-2.0
"""Scalars, images and histograms of a training run, and their writers, as in `detectron2.utils.events`."""

import datetime
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer

from .file_io import PathManager

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_storages: "list[EventStorage]" = []


def get_event_storage() -> "EventStorage":
    """The storage of the innermost `with EventStorage(...)` block."""
    if not _storages:
        raise AssertionError("get_event_storage() works only inside a 'with EventStorage(...)' block.")
    return _storages[-1]


def has_event_storage() -> bool:
    """Whether a `with EventStorage(...)` block is active."""
    return bool(_storages)


class EventStorage:
    """Scalars by name and iteration, and images and histograms until they are written. A context manager."""

    def __init__(self, start_iter: int = 0) -> None:
        self.iter = start_iter
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._latest: dict[str, tuple[float, int]] = {}
        self._smoothing: dict[str, bool] = {}
        self._images: list[tuple[str, np.ndarray | torch.Tensor, int]] = []
        self._histograms: list[dict[str, Any]] = []
        self._prefix = ""

    @property
    def iter(self) -> int:
        """The current iteration. Trainers set it; a custom loop sets it or calls `step`."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    @property
    def iteration(self) -> int:
        """The same as `iter`."""
        return self._iter

    def step(self) -> None:
        """Go on to the next iteration."""
        self._iter += 1

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Context in which names of scalars get the prefix `name/`; it replaces the prefix of an outer scope."""
        outer, self._prefix = self._prefix, f"{name.rstrip('/')}/"
        try:
            yield
        finally:
            self._prefix = outer

    def put_scalar(self, name: str, value: float, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Add one value.

        Args:
            smoothing_hint: whether writers should show the median of recent values; fixed for each name.
            cur_iter: iteration of the value, by default the current one.
        """
        name = self._prefix + name
        if self._smoothing.setdefault(name, smoothing_hint) != smoothing_hint:
            raise AssertionError(f"Scalar {name} was stored with smoothing_hint={not smoothing_hint} before.")
        iteration = self._iter if cur_iter is None else cur_iter
        value = float(value)
        self._history[name].update(value, iteration)
        self._latest[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: float) -> None:
        """`put_scalar` for each keyword argument."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: np.ndarray | torch.Tensor) -> None:
        """Keep an RGB image [3, H, W] (uint8, or floats in 0..1) for the next writer that shows images."""
        self._images.append((img_name, img_tensor, self._iter))

    def clear_images(self) -> None:
        """Remove all images; called by the writer after writing them."""
        self._images = []

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Keep the histogram of a tensor of any shape for the next writer that shows histograms."""
        low, high = hist_tensor.min().item(), hist_tensor.max().item()
        edges = torch.linspace(low, high, bins + 1, dtype=torch.float32)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": len(hist_tensor),
                "sum": float(hist_tensor.sum()),
                "sum_squares": float(hist_tensor.square().sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(hist_tensor, bins).tolist(),
                "global_step": self._iter,
            }
        )

    def clear_histograms(self) -> None:
        """Remove all histograms; called by the writer after writing them."""
        self._histograms = []

    def history(self, name: str) -> HistoryBuffer:
        if name not in self._history:
            raise KeyError(f"There is no scalar called {name}.")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        return self._history

    def latest(self) -> dict[str, tuple[float, int]]:
        """The last value of each scalar and its iteration."""
        return self._latest

    def smoothing_hints(self) -> dict[str, bool]:
        """The `smoothing_hint` of each scalar."""
        return self._smoothing

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """`latest`, with the median over the last `window_size` iterations where smoothing is wanted."""
        return {
            name: (self._median(name, window_size) if self._smoothing[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def _median(self, name: str, window_size: int) -> float:
        return self._history[name].median(self.count_samples(name, window_size))

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """The number of values in the last `window_size` iterations before the newest value."""
        iterations = [iteration for _, iteration in self._history[name].values()]
        count = 0
        while count < len(iterations) and iterations[-1 - count] > iterations[-1] - window_size:
            count += 1
        return count

    def __enter__(self) -> "EventStorage":
        _storages.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _storages.pop()


class EventWriter:
    """Base class of writers. `write` writes the values stored since the last call."""

    def write(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class JSONWriter(EventWriter):
    """One json object per line and iteration, appended to a file (`metrics.json`)."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        self._file = PathManager.open(json_file, "a", encoding="utf-8")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        lines: dict[int, dict[str, float]] = defaultdict(dict)
        scalars = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in scalars.items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        for iteration, line in lines.items():
            self._file.write(json.dumps({**line, "iteration": iteration}, sort_keys=True) + "\n")
        self._last_write = max(lines, default=self._last_write)
        self._file.flush()  # no fsync, which can stop a training for seconds on a busy disk

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """All scalars, images and histograms as TensorBoard events in a folder."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """`kwargs` go to `torch.utils.tensorboard.SummaryWriter`."""
        self._arguments = {"log_dir": log_dir, **kwargs}
        self._window_size = window_size
        self._last_write = -1

    @cached_property
    def _writer(self) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only some processes write

        return SummaryWriter(**self._arguments)

    def write(self) -> None:
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._images:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """One log line: ETA, iteration, losses, times, learning rate and GPU memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        """Without `max_iter` there is no ETA."""
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        # without timed iterations, the time since the last line gives the speed
        before, self._last_write = self._last_write, (storage.iter, time.perf_counter())
        if before is None:
            return None
        per_iteration = (self._last_write[1] - before[1]) / (storage.iter - before[0])
        return str(datetime.timedelta(seconds=int(per_iteration * left)))

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # training is over, and this line reports its progress only
        histories, window = storage.histories(), self._window_size
        eta = self._eta(storage)
        parts = [f"eta: {eta}"] if eta else []
        parts.append(f"iter: {storage.iter}")
        for mark in ("loss", "[metric]"):
            parts += [f"{k}: {storage._median(k, window):.4g}" for k in histories if mark in k]
        if "time" in histories:
            iteration_time = storage.history("time")
            parts += [f"time: {iteration_time.global_avg():.4f}", f"last_time: {iteration_time.latest():.4f}"]
        if "data_time" in histories:
            data_time = storage.history("data_time")
            average = data_time.avg(storage.count_samples("data_time", window))
            parts += [f"data_time: {average:.4f}", f"last_data_time: {data_time.latest():.4f}"]
        parts.append(f"lr: {storage.history('lr').latest():.5g}" if "lr" in histories else "lr: N/A")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 1024**2:.0f}M")
        self.logger.info(" %s", "  ".join(parts))
