# SPDX-License-Identifier: Apache-2.0
"""F1 over score thresholds, and the threshold at which it is highest.

Detections with a score below a threshold are removed. Of the others, TP are matched with an object of their class and
FP are not; FN objects are not found. Precision is TP / (TP + FP), recall TP / (TP + FN), and

    F1 = 2 TP / (2 TP + FP + FN)

their harmonic mean. COCO matches detections in the order of their scores, so removing those with lower scores changes
no match: one evaluation gives F1 at every threshold.
"""

from typing import NamedTuple

import numpy as np

#: Thresholds of curves.
GRID = np.linspace(0, 1, 101)


class Operation(NamedTuple):
    """What a detector does at a score threshold."""

    threshold: float
    f1: float
    precision: float
    recall: float


class Ranking(NamedTuple):
    """The n counted detections of one class, or of all classes, from the best score to the lowest."""

    scores: np.ndarray  # [n] float64
    hits: np.ndarray  # [n] bool: matched with an object
    objects: int  # that can be found, without crowd regions


def ranking(scores: np.ndarray, hits: np.ndarray, objects: int) -> Ranking:
    """Sort detections (scores [n], hits [n] bool) by score."""
    order = np.argsort(-scores, kind="stable")
    return Ranking(scores[order], hits[order], objects)


def operate(ranked: Ranking, threshold: float) -> Operation:
    """F1, precision and recall of the detections with at least this score; NaN where one is not defined."""
    kept = int((ranked.scores >= threshold).sum())
    hits = int(ranked.hits[:kept].sum())
    return Operation(
        threshold,
        f1=_ratio(2 * hits, kept + ranked.objects),
        precision=_ratio(hits, kept),
        recall=_ratio(hits, ranked.objects),
    )


def f1_curve(ranked: Ranking) -> np.ndarray:
    """F1 at the thresholds of `GRID`, [101]; NaN without objects."""
    if not ranked.objects:
        return np.full(len(GRID), np.nan)
    kept = np.searchsorted(-ranked.scores, -GRID, side="right")
    hits = np.concatenate([[0], np.cumsum(ranked.hits)])[kept]
    return 2 * hits / (kept + ranked.objects)


def best_threshold(ranked: Ranking) -> Operation | None:
    """The operation with the highest F1; None if no detection is right.

    The threshold lies midway between the lowest score that is kept and the next one, so that rounding of scores does
    not move a detection across it. Of several with the same F1, it is the highest.
    """
    if not ranked.hits.any():
        return None
    last_of_score = np.append(np.flatnonzero(np.diff(ranked.scores)), len(ranked.scores) - 1)
    hits = np.cumsum(ranked.hits)[last_of_score]
    f1 = 2 * hits / (last_of_score + 1 + ranked.objects)
    best = int(last_of_score[f1.argmax()])
    below = ranked.scores[best + 1] if best + 1 < len(ranked.scores) else min(0.0, ranked.scores[-1])
    return operate(ranked, _between(float(below), float(ranked.scores[best])))


def _between(low: float, high: float) -> float:
    """A short number in (low, high], near the middle."""
    middle = (low + high) / 2
    for digits in (2, 3, 4, 6, 9):
        if low < round(middle, digits) <= high:
            return round(middle, digits)
    return high


def _ratio(part: int, total: int) -> float:
    return part / total if total else float("nan")
