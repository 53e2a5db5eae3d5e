"""How often one object gets several confident boxes (DINO section 3.3 and figure 8)."""

import itertools
from typing import NamedTuple

import numpy as np
import torch

from dino_d2.detectron2.evaluation import DatasetEvaluator
from dino_d2.detectron2.structures import Boxes, Instances, pairwise_iou
from dino_d2.detectron2.utils import comm


class Claims(NamedTuple):
    """Confident boxes that lie on each of T objects, more than on any other object of the image."""

    own: np.ndarray  # [T] int32: boxes of the object's class
    classes: np.ndarray  # [T] int32: different classes among all its boxes


def count_claims(
    detections: Instances, labels: torch.Tensor, boxes: Boxes, score_threshold: float, iou_threshold: float
) -> Claims:
    """Count for one image.

    A confident detection claims the object it has the highest IoU with, if that is high enough.

    Args:
        detections: with ``pred_boxes``, ``scores`` and ``pred_classes``.
        labels: [T] int64.
        boxes: [T, 4] in the pixels of the detections.
        score_threshold: detections from this score on are confident.
        iou_threshold: detections from this IoU on lie on an object.
    """
    own, kinds = np.zeros(len(labels), np.int32), np.zeros(len(labels), np.int32)
    confident = detections.scores >= score_threshold
    if len(labels) and confident.any():
        found = Boxes(detections.pred_boxes.tensor[confident])
        iou, target = pairwise_iou(found, boxes).max(dim=1)  # [K]
        claims = zip(target.tolist(), detections.pred_classes[confident].tolist(), iou.tolist(), strict=True)
        claims = [(t, c) for t, c, overlap in claims if overlap >= iou_threshold]
        labels = labels.tolist()
        for t, c in claims:
            own[t] += c == labels[t]
        for t, _ in set(claims):
            kinds[t] += 1
    return Claims(own, kinds)


class DuplicateEvaluator(DatasetEvaluator):
    """Duplicate predictions, for any detector that gives ``Instances``.

    The results, under "duplicates":

    * ``rate``: percent of the found objects (those with a confident box of their own class) that have two or more;
    * ``boxes_per_object``: mean number of confident boxes of its own class on a found object;
    * ``confused``: percent of the objects with any confident box on them that have boxes of different classes;
    * ``found``: percent of all objects that are found.

    Args:
        score_threshold: boxes from this score on are confident.
        iou_threshold: boxes from this IoU on lie on an object.
    """

    def __init__(self, score_threshold: float = 0.3, iou_threshold: float = 0.5):
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self._claims: dict[object, Claims] = {}

    def reset(self) -> None:
        self._claims = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Count in one batch: inputs with the ground truth as "instances", outputs with "instances"."""
        for image, output in zip(inputs, outputs, strict=True):
            detections = output["instances"].to("cpu")
            truth = image["instances"]
            boxes = truth.gt_boxes.clone()
            boxes.scale(*(a / b for a, b in zip(detections.image_size[::-1], truth.image_size[::-1], strict=True)))
            self._claims[image["image_id"]] = count_claims(
                detections, truth.gt_classes, boxes, self.score_threshold, self.iou_threshold
            )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The results of all ranks, on rank 0; each image counts once, whoever had it."""
        gathered = comm.gather(self._claims)
        if not comm.is_main_process():
            return {}
        claims = dict(itertools.chain.from_iterable(part.items() for part in gathered)).values()
        if not claims:
            return {}
        own = np.concatenate([claim.own for claim in claims])
        classes = np.concatenate([claim.classes for claim in claims])
        found = own[own > 0]
        return {
            "duplicates": {
                "rate": percent(found > 1),
                "boxes_per_object": float(found.mean()) if len(found) else float("nan"),
                "confused": percent(classes[classes > 0] > 1),
                "found": percent(own > 0),
            }
        }


def percent(flags: np.ndarray) -> float:
    """Share of True in percent; NaN of nothing."""
    return 100 * float(flags.mean()) if len(flags) else float("nan")
