# SPDX-License-Identifier: Apache-2.0
"""Writers of a run's metrics to the log, to metrics.json and to TensorBoard, with either engine."""

import json
import math
import os
from collections import defaultdict
from pathlib import Path

from dino_d2.detectron2.utils.events import CommonMetricPrinter, EventWriter, TensorboardXWriter, get_event_storage


def writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """Detectron2's ``default_writers`` with a metrics.json that is valid JSON whatever the values.

    Args:
        output_dir: folder of metrics.json and of TensorBoard's files.
        max_iter: iterations of the run, for the remaining time in the log.
    """
    return [
        CommonMetricPrinter(max_iter),
        MetricsWriter(Path(output_dir) / "metrics.json"),
        TensorboardXWriter(output_dir),
    ]


def values_after(iteration: int, window_size: int) -> dict[int, dict[str, float]]:
    """{iteration: {name: value}} of the scalars that are newer than ``iteration`` in the storage of the training.

    Args:
        window_size: iterations over which smoothed values take their median.
    """
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for name, (value, of_iteration) in get_event_storage().latest_with_smoothing_hint(window_size).items():
        if of_iteration > iteration:
            found[of_iteration][name] = value
    return found


class MetricsWriter(EventWriter):
    """Appends one JSON object per line and iteration, as Detectron2's ``JSONWriter`` does.

    JSON has no NaN or infinity: such values, for example the AP of a class without objects, are written as null.

    Args:
        path: of the file.
        window_size: iterations over which smoothed values take their median.
    """

    def __init__(self, path: Path, window_size: int = 20):
        _drop_half_line(path)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 closed by close()
        self._window_size = window_size
        self._last_iteration = -1

    def write(self) -> None:
        lines = values_after(self._last_iteration, self._window_size)
        objects = [
            {name: value if math.isfinite(value) else None for name, value in values.items()} | {"iteration": iteration}
            for iteration, values in lines.items()
        ]
        text = "".join(json.dumps(one, sort_keys=True, allow_nan=False) + "\n" for one in objects)
        self._write(text.encode())
        self._last_iteration = max(lines, default=self._last_iteration)

    def _write(self, content: bytes) -> None:
        """
        Raises:
            OSError: the disk is full; the file is as before.
        """
        size = self._file.seek(0, os.SEEK_END)
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError:
            self._file.truncate(size)
            raise

    def close(self) -> None:
        self._file.close()


def _drop_half_line(path: Path) -> None:
    """Cut a file after its last line break: a run that was killed may have written a part of a line."""
    if path.is_file():
        with open(path, "rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
