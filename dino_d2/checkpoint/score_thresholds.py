# SPDX-License-Identifier: Apache-2.0
"""The score thresholds that a report has found best for a model, stored in its checkpoint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dino_d2.errors import UserError
from dino_d2.files import write_atomically

from .torch_file import check_sums, read_torch

KEY = "score_thresholds"


@dataclass(frozen=True)
class ScoreThresholds:
    """
    Attributes:
        overall: of the highest F1 of all classes together, in [0, 1].
        classes: {class name: threshold of the highest F1 of this class alone}; classes of which nothing was found
            right are missing.
        iou_threshold: minimum IoU of a right detection.
    """

    overall: float
    classes: Mapping[str, float]
    iou_threshold: float

    def of(self, class_names: Sequence[str]) -> list[float]:
        """The threshold of each class; that of all classes together where a class has none of its own."""
        return [self.classes.get(name, self.overall) for name in class_names]


def read_score_thresholds(path: str) -> ScoreThresholds | None:
    """The thresholds that are stored in a checkpoint; None if there are none.

    Raises:
        UserError: the file is damaged or holds more than tensors and plain values.
    """
    if Path(path).suffix not in (".pth", ".pt"):
        return None
    content = read_torch(path)
    stored = content.get(KEY) if isinstance(content, dict) else None
    if stored is None:
        return None
    if not _is_whole(stored):
        raise UserError(f"{path}: damaged: its {KEY!r} are no thresholds in [0, 1]. Store them again (dino_d2 report)")
    return ScoreThresholds(**stored)


def store_score_thresholds(path: str, thresholds: ScoreThresholds, class_names: Sequence[str]) -> None:
    """Add thresholds to a checkpoint, in place of earlier ones; all else in it stays as it is.

    Args:
        path: a checkpoint of a run.
        class_names: of the dataset that they were measured on, in the order of its category ids.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or its model has other classes.
    """
    file = Path(path).resolve()  # a link stays one
    if not file.is_file():
        raise UserError(f"there is no checkpoint {path} (looked from {Path.cwd()})")
    check_sums(str(file))
    content = read_torch(str(file))
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise UserError(
            f"{path} is no checkpoint of a run: it has no 'model'. Convert it first: python -m dino_d2.checkpoint "
            f"{path} converted.pth"
        )
    own = [category["name"] for category in content.get("categories") or []]
    if own and own != list(class_names):
        raise UserError(
            f"{path} is a model of other classes: {', '.join(own[:5])}; the thresholds are those of "
            f"{', '.join(class_names[:5])}"
        )
    stored = {
        "overall": thresholds.overall,
        "classes": dict(thresholds.classes),
        "iou_threshold": thresholds.iou_threshold,
    }
    try:
        write_atomically(file, lambda target: torch.save({**content, KEY: stored}, target))
    except (OSError, RuntimeError) as error:  # PyTorch raises the latter where writing fails
        raise UserError(f"{path} cannot be written: {error}. The file is as it was") from error


def _is_whole(stored: Any) -> bool:
    if not isinstance(stored, dict) or stored.keys() != {"overall", "classes", "iou_threshold"}:
        return False
    classes = stored["classes"]
    if not isinstance(classes, dict) or not all(isinstance(name, str) for name in classes):
        return False
    values = [stored["overall"], stored["iou_threshold"], *classes.values()]
    return all(isinstance(value, float) and math.isfinite(value) and 0 <= value <= 1 for value in values)
