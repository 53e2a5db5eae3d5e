# SPDX-License-Identifier: Apache-2.0
"""All numbers of a report."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.errors import UserError
from dino_d2.evaluation.class_ap import ClassAP, evaluate_classes, iou_index, mean_ap
from dino_d2.evaluation.duplicates import count_boxes, duplicate_rates
from dino_d2.evaluation.ground_truth import GroundTruth
from dino_d2.evaluation.mistakes import Mistakes, by_image, find_mistakes
from dino_d2.evaluation.results import Detections
from dino_d2.evaluation.thresholds import GRID, Operation, Ranking, best_threshold, f1_curve, operate, ranking

#: Without a right detection there is no best threshold.
DEFAULT_THRESHOLD = 0.3


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        iou_threshold: of F1, the confusion matrix, mistakes and duplicates.
        score_threshold: of the confusion matrix, mistakes and duplicates; None for that of the highest F1.
        max_dets_per_image: detections that count in each image for each class, best first.
    """

    iou_threshold: float = 0.5
    score_threshold: float | None = None
    max_dets_per_image: int = 100

    def __post_init__(self) -> None:
        if self.score_threshold is not None and not 0 <= self.score_threshold <= 1:
            raise UserError(f"--score-threshold must be between 0 and 1, not {self.score_threshold:g}")
        iou_index(self.iou_threshold)
        if self.max_dets_per_image < 1:
            raise UserError(f"--max-dets-per-image must be at least 1, not {self.max_dets_per_image}")


@dataclass(frozen=True)
class Measures:
    """What a report says.

    Attributes:
        best: operation with the highest F1 of all classes together; None if no detection is right.
        best_of_class: the same for each class alone.
        operation: at ``score_threshold``.
        score_threshold: that was given, or the best.
        worst_images: indices of the images with mistakes, most mistakes first.
        duplicates: results of ``DuplicateEvaluator``.
    """

    settings: Settings
    truth: GroundTruth
    detections: Detections
    ap: ClassAP
    ranked: list[Ranking]
    ranked_together: Ranking
    best: Operation | None
    best_of_class: list[Operation | None]
    operation: Operation
    score_threshold: float
    mistakes: Mistakes
    worst_images: list[int]
    duplicates: dict[str, float]


def measure(truth: GroundTruth, detections: Detections, settings: Settings) -> Measures:
    """Evaluate detections; see :class:`Measures`."""
    ap = evaluate_classes(truth, detections, settings.iou_threshold, settings.max_dets_per_image)
    counted, objects = ap.match >= -1, ~truth.is_crowd
    ranked = []
    for k in range(len(truth.class_names)):
        of_class = np.flatnonzero(counted & (detections.label == k))
        number = int((truth.label[objects] == k).sum())
        ranked.append(ranking(detections.scores[of_class], ap.match[of_class] >= 0, number))
    together = ranking(detections.scores[counted], ap.match[counted] >= 0, int(objects.sum()))
    best = best_threshold(together)
    threshold = settings.score_threshold
    if threshold is None:
        threshold = best.threshold if best else DEFAULT_THRESHOLD
    mistakes = find_mistakes(truth, detections, ap.match, threshold, settings.iou_threshold)
    return Measures(
        settings=settings,
        truth=truth,
        detections=detections,
        ap=ap,
        ranked=ranked,
        ranked_together=together,
        best=best,
        best_of_class=[best_threshold(of_class) for of_class in ranked],
        operation=operate(together, threshold),
        score_threshold=threshold,
        mistakes=mistakes,
        worst_images=worst_images(truth, detections, mistakes),
        duplicates=_duplicates(truth, detections, threshold, settings.iou_threshold),
    )


def worst_images(truth: GroundTruth, detections: Detections, mistakes: Mistakes) -> list[int]:
    """Images with mistakes: most mistakes first, and of equally many those with the highest scores first."""
    wrong = Counter(int(detections.image[mistake.detection]) for mistake in mistakes.false_positives)
    confidence: Counter[int] = Counter()
    for mistake in mistakes.false_positives:
        confidence[int(detections.image[mistake.detection])] += float(detections.scores[mistake.detection])  # type: ignore[assignment]  # Counter's values are typed as whole numbers
    missed = Counter(truth.image[mistakes.missed].tolist())
    return sorted(wrong | missed, key=lambda i: (-wrong[i] - missed[i], -confidence[i], i))


def _duplicates(
    truth: GroundTruth, detections: Detections, score_threshold: float, iou_threshold: float
) -> dict[str, float]:
    kept = np.flatnonzero(detections.scores >= score_threshold)
    objects = np.flatnonzero(~truth.is_crowd)
    found_in, objects_in = by_image(detections.image[kept]), by_image(truth.image[objects])
    counts = []
    for image in tqdm(sorted(objects_in), "duplicates", unit="image", disable=None, leave=False):
        found = kept[found_in.get(image, np.zeros(0, np.int64))]
        own = objects[objects_in[image]]
        instances = Instances((1, 1))
        instances.pred_boxes = Boxes(_xyxy(detections.boxes[found]))
        instances.scores = torch.from_numpy(detections.scores[found])
        instances.pred_classes = torch.from_numpy(detections.label[found])
        labels = torch.from_numpy(truth.label[own])
        counts.append(count_boxes(instances, labels, Boxes(_xyxy(truth.boxes[own])), score_threshold, iou_threshold))
    return duplicate_rates(counts) if counts else {}


def _xyxy(boxes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)).float()


def as_json(measures: Measures) -> dict[str, Any]:
    """The numbers as report.json has them: AP, duplicates in percent, all else as shares; None where not defined."""
    truth, detections, mistakes = measures.truth, measures.detections, measures.mistakes
    settings = measures.settings
    names = truth.class_names
    confusion = mistakes.confusion
    content = {
        "images": len(truth.image_ids),
        "objects": int((~truth.is_crowd).sum()),
        "crowd_regions": int(truth.is_crowd.sum()),
        "detections": len(detections.scores),
        "max_dets_per_image": settings.max_dets_per_image,
        "iou_threshold": settings.iou_threshold,
        "score_threshold": measures.score_threshold,
        "score_threshold_is": "given" if settings.score_threshold is not None else "that of the best F1",
        "overall": {
            **mean_ap(measures.ap.precision),
            "at_threshold": measures.operation._asdict(),
            "best": measures.best and measures.best._asdict(),
        },
        "classes": [
            {
                "id": truth.category_ids[k],
                "name": name,
                "objects": measures.ranked[k].objects,
                "detections": int((detections.label == k).sum()),
                **mean_ap(measures.ap.precision[:, :, k]),
                "at_threshold": operate(measures.ranked[k], measures.score_threshold)._asdict(),
                "best": (best := measures.best_of_class[k]) and best._asdict(),
            }
            for k, name in enumerate(names)
        ],
        "f1_over_thresholds": {
            "thresholds": GRID.tolist(),
            "overall": f1_curve(measures.ranked_together).tolist(),
            "classes": {name: f1_curve(ranked).tolist() for name, ranked in zip(names, measures.ranked, strict=True)},
        },
        "confusion": [  # what is not listed is 0
            {"object": [*names, None][row], "detected_as": [*names, None][column], "count": int(confusion[row, column])}
            for row, column in np.argwhere(confusion).tolist()
        ],
        "false_positives": dict(Counter(mistake.kind for mistake in mistakes.false_positives)),
        "missed": len(mistakes.missed),
        "duplicates": measures.duplicates,
        "worst_images": [truth.file_names[i] for i in measures.worst_images[:100]],
    }
    return _without_nan(content)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
