# SPDX-License-Identifier: Apache-2.0
"""Detections of a whole dataset as arrays, read from a file in COCO's results format."""

import json
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dino_d2.errors import UserError

from .ground_truth import GroundTruth
from .joining import Origin, join_classes, join_images


class Detections(NamedTuple):
    """K detections, in the order of their file."""

    image: np.ndarray  # [K] int64 index among the images of the ground truth
    label: np.ndarray  # [K] int64 index among its classes
    boxes: np.ndarray  # [K, 4] float64 xywh in pixels
    scores: np.ndarray  # [K] float64


@dataclass
class _Collector:
    """Takes the entries of a results file while it is parsed, so that only numbers stay in memory."""

    source: Path

    def __post_init__(self) -> None:
        self.images: dict[Origin, int] = {}
        self.classes: dict[Origin, int] = {}
        self.image, self.label = array("q"), array("q")
        self.boxes, self.scores = array("d"), array("d")

    def __call__(self, entry: dict[str, Any]) -> dict[str, Any] | None:
        if "bbox" not in entry or "score" not in entry:
            return entry  # an object inside an entry, such as a mask, or something that is no detection
        number = len(self.scores)
        # Frames of a video share the name of its file.
        name = entry.get("file_name") if "frame" not in entry else None
        image = self._origin(entry, "image_id", name)
        label = self._origin(entry, "category_id", entry.get("category_name"))
        box = entry["bbox"]
        try:
            if len(box) != 4:
                raise ValueError
            self.boxes.extend(box)
            self.scores.append(entry["score"])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{self.source}: entry {number} needs a bbox of four numbers [x, y, width, height] and a score"
            ) from error
        self.image.append(self.images.setdefault(image, len(self.images)))
        self.label.append(self.classes.setdefault(label, len(self.classes)))
        return None

    def _origin(self, entry: dict[str, Any], key: str, name: Any) -> Origin:
        value = entry.get(key)
        if not isinstance(value, int | str) or isinstance(value, bool):
            raise UserError(
                f"{self.source}: entry {len(self.scores)} has no {key}; it must be a whole number or a text"
            )
        if not isinstance(name, str | None):
            raise UserError(f"{self.source}: entry {len(self.scores)} has a name that is not text: {name!r}")
        return Origin(value, name)


def read_results(results: Path, truth: GroundTruth, say: Callable[[str], object]) -> Detections:
    """Read detections and join them to the ground truth, see :mod:`dino_d2.evaluation.joining`.

    Args:
        results: a json list of {"image_id", "category_id", "bbox" (xywh in pixels), "score"}, optionally with
            "file_name" and "category_name".
        truth: of the same images.
        say: receives sentences about what was joined by name or left out.

    Raises:
        UserError: the file is missing, has another format, or does not belong to the ground truth.
    """
    if not results.is_file():
        raise UserError(f"there is no {results} (looked from {Path.cwd()})")
    collector = _Collector(results)
    try:
        with open(results, encoding="utf-8-sig") as file:
            content = json.load(file, object_hook=collector)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # not JSON, or not even text
        raise UserError(f"{results} is not a JSON file: {error}") from error
    if not isinstance(content, list) or not content:
        raise UserError(f"{results} is not a list of detections, or it is empty")
    wrong = next((i for i, entry in enumerate(content) if entry is not None), None)
    if wrong is not None:
        raise UserError(
            f"{results} is not a list of detections: entry {wrong} has no bbox or no score. "
            "Is this an annotation file? It goes to --annotations"
        )
    boxes = np.frombuffer(collector.boxes, np.float64).reshape(-1, 4)
    scores = np.frombuffer(collector.scores, np.float64)
    bad = np.flatnonzero(~(np.isfinite(boxes).all(1) & np.isfinite(scores)))
    if len(bad):
        raise UserError(f"{results}: {len(bad)} detections have NaN or infinity; the first is entry {bad[0]}")
    image = join_images(list(collector.images), truth, results, say)[np.frombuffer(collector.image, np.int64)]
    label = join_classes(list(collector.classes), truth, results, say)[np.frombuffer(collector.label, np.int64)]
    kept = (image >= 0) & (label >= 0)
    return Detections(image[kept], label[kept], boxes[kept], scores[kept])
