# SPDX-License-Identifier: Apache-2.0
"""What a detector gets wrong at a score threshold: the confusion matrix, false positives and missed objects.

Detections are first matched within their class by COCO's rules, which gives the diagonal. Then, in the order of their
scores, each detection that is left is matched with the free object of another class that it overlaps most, if the IoU
reaches the threshold. What is still left is a detection on the background or a missed object. Detections that match a
crowd region, and crowd regions, are not counted.

Kinds of false positives, after TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020), the first that applies:

* "duplicate": overlaps an object of its class (at least the IoU threshold) that a better detection has found;
* "wrong class": overlaps an object of another class (at least the IoU threshold);
* "inexact box": overlaps an object of its class with an IoU of at least 0.1;
* "background": none of these.
"""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .class_ap import UNMATCHED
from .ground_truth import GroundTruth
from .results import Detections

#: TIDE's lower threshold.
NEAR_IOU = 0.1


class FalsePositive(NamedTuple):
    """A detection that is wrong."""

    detection: int  # index
    kind: str
    object: int  # index of the object that explains it, -1 for "background"
    iou: float  # with that object; 0 for "background"


class Mistakes(NamedTuple):
    """All mistakes in a dataset."""

    confusion: np.ndarray  # [C + 1, C + 1] int64: objects of a class (row) by detected class (column), last: background
    false_positives: list[FalsePositive]  # best score first
    missed: np.ndarray  # indices of the objects that no detection of their class has found


def find_mistakes(
    truth: GroundTruth, detections: Detections, match: np.ndarray, score_threshold: float, iou_threshold: float
) -> Mistakes:
    """
    Args:
        truth, detections: of one dataset.
        match: of `ClassAP`, at the same IoU threshold.
        score_threshold: detections with a lower score are left out.
        iou_threshold: minimum IoU of a detection and its object.
    """
    background = len(truth.class_names)
    confusion = np.zeros((background + 1, background + 1), np.int64)
    kept = detections.scores >= score_threshold
    right = np.flatnonzero(kept & (match >= 0))
    wrong = np.flatnonzero(kept & (match == UNMATCHED))
    found = np.zeros(len(truth.label), bool)
    found[match[right]] = True
    np.add.at(confusion, (truth.label[match[right]], detections.label[right]), 1)
    missed = np.flatnonzero(~found & ~truth.is_crowd)

    objects = np.flatnonzero(~truth.is_crowd)
    wrong_in, objects_in = by_image(detections.image[wrong]), by_image(truth.image[objects])
    taken = found.copy()  # by a detection of any class
    false_positives: list[FalsePositive] = []
    for image in tqdm(sorted(wrong_in), "mistakes", unit="image", disable=None, leave=False):
        of_image = wrong[wrong_in[image]]
        of_image = of_image[np.argsort(-detections.scores[of_image], kind="stable")]
        own = objects[objects_in.get(image, np.zeros(0, np.int64))]
        ious = pairwise_iou(detections.boxes[of_image], truth.boxes[own])
        for n, iou in zip(of_image.tolist(), ious, strict=True):
            label = int(detections.label[n])
            free = np.where(taken[own] | (truth.label[own] == label), 0, iou)
            row = background
            if len(own) and free.max() >= iou_threshold:
                target = int(own[free.argmax()])
                taken[target] = True
                row = int(truth.label[target])
            confusion[row, label] += 1
            false_positives.append(_explain(n, label, iou, own, truth, iou_threshold))
    never = missed[~taken[missed]]
    np.add.at(confusion, (truth.label[never], background), 1)
    false_positives.sort(key=lambda mistake: -detections.scores[mistake.detection])
    return Mistakes(confusion, false_positives, missed)


def by_image(image: np.ndarray) -> dict[int, np.ndarray]:
    """{image: ascending indices of its entries}, from the image [n] of each entry."""
    if not len(image):
        return {}
    order = np.argsort(image, kind="stable")
    numbers, starts = np.unique(image[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True))


def _explain(
    n: int, label: int, iou: np.ndarray, own: np.ndarray, truth: GroundTruth, iou_threshold: float
) -> FalsePositive:
    same = truth.label[own] == label
    for kind, candidates, least in (
        ("duplicate", same, iou_threshold),
        ("wrong class", ~same, iou_threshold),
        ("inexact box", same, NEAR_IOU),
    ):
        values = np.where(candidates, iou, -1.0)
        if len(own) and values.max() >= least:
            return FalsePositive(n, kind, int(own[values.argmax()]), float(values.max()))
    return FalsePositive(n, "background", -1, 0.0)


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of boxes [n, 4] and [m, 4], both xywh: [n, m]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    shared = (high - low).clip(min=0).prod(2)
    total = a[:, 2:].prod(1)[:, None] + b[:, 2:].prod(1)[None] - shared
    return np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
