# SPDX-License-Identifier: Apache-2.0
"""Filters for the detections of one image: a score threshold and non-maximum suppression."""

from dataclasses import dataclass
from numbers import Real

from torchvision.ops import batched_nms

from dino_d2.detectron2.structures import Instances
from dino_d2.errors import UserError


@dataclass(frozen=True)
class Filters:
    """Which detections of an image are kept; all of them by default.

    Args:
        score_threshold: detections with a lower score are removed; in [0, 1], None to keep all.
        nms_iou: of two detections of one class whose boxes have a higher IoU than this, the one with the lower score is
            removed; in [0, 1], None to keep both. A trained DETR rarely needs it: its queries learn not to repeat an
            object. It helps after a short training.

    Raises:
        UserError: a value is outside its range.
    """

    score_threshold: float | None = None
    nms_iou: float | None = None

    def __post_init__(self) -> None:
        values: dict[str, object] = {"score_threshold": self.score_threshold, "nms_iou": self.nms_iou}
        for name, value in values.items():
            if value is None:
                continue
            if value is True or value is False or not isinstance(value, Real) or not 0 <= float(value) <= 1:
                raise UserError(f"{name} must be a number between 0 and 1, not {value!r}")

    def __call__(self, instances: Instances) -> Instances:
        """The detections that are kept, best first; `instances` with ``pred_boxes``, ``scores``, ``pred_classes``."""
        if self.score_threshold is not None:
            instances = instances[instances.scores >= self.score_threshold]
        if self.nms_iou is not None:
            boxes, scores = instances.pred_boxes.tensor.float(), instances.scores.float()
            instances = instances[batched_nms(boxes, scores, instances.pred_classes, self.nms_iou)]
        return instances
