# SPDX-License-Identifier: Apache-2.0
"""COCO's average precision of boxes by class, from pycocotools.

Classes are evaluated one after another, so that memory grows with the largest class and not with the dataset. The
numbers are those of one evaluation of all classes, because COCO matches and ranks detections within a class.

COCO's rules (cocoeval.py of pycocotools): detections of a class are matched in the order of their scores, each with
the free object of highest IoU. Detections that match a crowd region, and in AP of small, medium or large objects those
that match an object of another size or match nothing and have another size themselves, count neither as right nor as
wrong. Sizes are the "area" of the annotation and the area of the detected box: small below 32², medium below 96².
"""

import contextlib
import io
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tqdm import tqdm

from dino_d2.errors import UserError

from .ground_truth import GroundTruth
from .results import Detections

#: COCO's ten thresholds of IoU.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
#: Names of AP by the index of the area range.
SIZES = {"AP": 0, "APs": 1, "APm": 2, "APl": 3}

#: Values of ``ClassAP.match`` below 0.
UNMATCHED, IGNORED, NOT_COUNTED = -1, -2, -3


class ClassAP(NamedTuple):
    """What COCO's evaluation says of each of C classes."""

    precision: np.ndarray  # [IoU thresholds, recalls, C, area ranges] in [0, 1], NaN for classes without objects
    match: np.ndarray  # [K] int64: object matched with each detection at one IoU threshold, or one of the values above


def iou_index(iou_threshold: float) -> int:
    """Index among `IOU_THRESHOLDS`.

    Raises:
        UserError: it is none of them.
    """
    index = int(np.abs(IOU_THRESHOLDS - iou_threshold).argmin())
    if not np.isclose(IOU_THRESHOLDS[index], iou_threshold):
        raise UserError(f"--iou-threshold {iou_threshold:g}: COCO evaluates at 0.5, 0.55, ..., 0.95. Give one of these")
    return index


def evaluate_classes(
    truth: GroundTruth, detections: Detections, iou_threshold: float = 0.5, max_dets_per_image: int = 100
) -> ClassAP:
    """Evaluate each class.

    Args:
        truth, detections: of one dataset.
        iou_threshold: of ``match``, one of `IOU_THRESHOLDS`.
        max_dets_per_image: detections that count in each image for each class, best first.
    """
    index = iou_index(iou_threshold)
    classes = len(truth.class_names)
    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), classes, len(SIZES)), np.nan)
    match = np.full(len(detections.scores), NOT_COUNTED, np.int64)
    objects_of, detections_of = (indices_of(label, classes) for label in (truth.label, detections.label))
    for k in tqdm(range(classes), "AP by class", unit="class", disable=None, leave=False):
        if not (len(objects_of[k]) or len(detections_of[k])):
            continue
        evaluation = _evaluate(truth, detections, objects_of[k], detections_of[k], max_dets_per_image)
        values = evaluation.eval["precision"][:, :, 0, :, -1]
        precision[:, :, k] = np.where(values < 0, np.nan, values)
        for image in evaluation.evalImgs[: len(evaluation.params.imgIds)]:  # those of objects of all sizes
            if image is not None:
                numbers = np.array(image["dtIds"], np.int64) - 1
                matched = image["dtMatches"][index].astype(np.int64) - 1  # UNMATCHED where there is none
                match[numbers] = np.where(image["dtIgnore"][index], IGNORED, matched)
    return ClassAP(precision, match)


def indices_of(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Indices of the entries with each label, in ascending order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))


def _evaluate(
    truth: GroundTruth, detections: Detections, objects: np.ndarray, found: np.ndarray, limit: int
) -> COCOeval:
    """pycocotools' evaluation of one class. Ids are index + 1, because pycocotools takes id 0 for "no match"."""
    annotations = [
        {
            "id": int(m) + 1,
            "image_id": int(truth.image[m]),
            "category_id": 0,
            "bbox": truth.boxes[m].tolist(),
            "area": float(truth.area[m]),
            "iscrowd": int(truth.is_crowd[m]),
        }
        for m in objects
    ]
    results = []
    for n in found:
        box = detections.boxes[n].tolist()
        entry = {"id": int(n) + 1, "image_id": int(detections.image[n]), "category_id": 0, "bbox": box}
        results.append(entry | {"score": float(detections.scores[n]), "area": box[2] * box[3], "iscrowd": 0})
    images = np.union1d(truth.image[objects], detections.image[found]).tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(images, annotations), _coco(images, results), "bbox")
        evaluation.params.maxDets = [limit]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _coco(images: Iterable[int], annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": [{"id": i} for i in images], "annotations": annotations, "categories": [{"id": 0}]}
    coco.createIndex()
    return coco


def mean_ap(precision: np.ndarray) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm and APl in percent.

    Args:
        precision: [IoU thresholds, recalls, any number of classes, area ranges] of `ClassAP`.
    """
    parts = {name: precision[..., size] for name, size in SIZES.items()}
    parts |= {name: precision[iou_index(iou), ..., 0] for name, iou in (("AP50", 0.5), ("AP75", 0.75))}
    return {name: _mean_in_percent(parts[name]) for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}


def _mean_in_percent(precision: np.ndarray) -> float:
    defined = precision[~np.isnan(precision)]
    return 100 * float(defined.mean()) if defined.size else float("nan")
