# SPDX-License-Identifier: Apache-2.0
"""How often one object gets several confident boxes (DINO section 3.3 and figure 8)."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from dino_d2.detectron2.evaluation import DatasetEvaluator
from dino_d2.detectron2.structures import Boxes, Instances, pairwise_iou
from dino_d2.detectron2.utils import comm


class BoxesOnObjects(NamedTuple):
    """Confident boxes on each of the M objects of an image; a box belongs to the object it overlaps most."""

    same_class: np.ndarray  # [M] int32: boxes of the object's class
    classes: np.ndarray  # [M] int32: different classes among all of the object's boxes


def count_boxes(
    detections: Instances, labels: torch.Tensor, boxes: Boxes, score_threshold: float, iou_threshold: float
) -> BoxesOnObjects:
    """Assign the confident detections of one image to its objects and count them.

    A detection is assigned to the object with which it has the highest IoU, if that reaches the threshold.

    Args:
        detections: with ``pred_boxes``, ``scores`` and ``pred_classes``.
        labels: [M] int64.
        boxes: [M, 4] xyxy in pixels of the detections.
        score_threshold: minimum score of a confident detection.
        iou_threshold: minimum IoU of a detection and its object.
    """
    same_class, classes = np.zeros(len(labels), np.int32), np.zeros(len(labels), np.int32)
    confident = detections.scores >= score_threshold
    if len(labels) and confident.any():
        found = Boxes(detections.pred_boxes.tensor[confident])
        iou, target = pairwise_iou(found, boxes).max(dim=1)  # [K]
        rows = zip(target.tolist(), detections.pred_classes[confident].tolist(), iou.tolist(), strict=True)
        assigned = [(index, label) for index, label, overlap in rows if overlap >= iou_threshold]
        true_labels = labels.tolist()
        for index, label in assigned:
            same_class[index] += label == true_labels[index]
        for index, _ in set(assigned):
            classes[index] += 1
    return BoxesOnObjects(same_class, classes)


class DuplicateEvaluator(DatasetEvaluator):
    """Duplicate detections, for any detector that returns ``Instances``.

    An object is found if at least one confident box of its class is assigned to it. Results, under "duplicates":

    * ``rate``: percentage of found objects with two or more confident boxes of their class;
    * ``boxes_per_object``: mean number of confident boxes of its class on a found object;
    * ``confused``: percentage of objects with boxes of different classes, among those with any confident box;
    * ``found``: percentage of all objects that are found.

    Args:
        score_threshold: minimum score of a confident box.
        iou_threshold: minimum IoU of a box and its object.
    """

    def __init__(self, score_threshold: float = 0.3, iou_threshold: float = 0.5):
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self._counts: dict[object, BoxesOnObjects] = {}

    def reset(self) -> None:
        self._counts = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count the boxes of one batch; inputs have the ground truth as "instances", outputs the detections."""
        for image, output in zip(inputs, outputs, strict=True):
            detections = output["instances"].to("cpu")
            truth = image["instances"]
            boxes = truth.gt_boxes.clone()
            boxes.scale(*(a / b for a, b in zip(detections.image_size[::-1], truth.image_size[::-1], strict=True)))
            self._counts[image["image_id"]] = count_boxes(
                detections, truth.gt_classes, boxes, self.score_threshold, self.iou_threshold
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Results over all ranks, on rank 0. An image that several ranks have processed counts once."""
        gathered = comm.gather(self._counts)
        if not comm.is_main_process():
            return {}
        counts = list(dict(itertools.chain.from_iterable(part.items() for part in gathered)).values())
        return {"duplicates": duplicate_rates(counts)} if counts else {}


def duplicate_rates(counts: Sequence[BoxesOnObjects]) -> dict[str, float]:
    """The results of :class:`DuplicateEvaluator` from the counts of at least one image."""
    same_class = np.concatenate([count.same_class for count in counts])
    classes = np.concatenate([count.classes for count in counts])
    found = same_class[same_class > 0]
    return {
        "rate": percent(found > 1),
        "boxes_per_object": float(found.mean()) if len(found) else float("nan"),
        "confused": percent(classes[classes > 0] > 1),
        "found": percent(same_class > 0),
    }


def percent(flags: np.ndarray) -> float:
    """Percentage of True values; NaN for an empty array."""
    return 100 * float(flags.mean()) if len(flags) else float("nan")
