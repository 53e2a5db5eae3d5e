# SPDX-License-Identifier: Apache-2.0
"""Progressive inference: the best detections become known objects (DN-DETR section 5.7.2)."""

from collections.abc import Callable, Sequence

import torch

from dino_d2.detectron2.structures import Boxes, Instances


class ProgressiveInference:
    """Repeatedly makes the best detection a known object and detects the others again (section 5.7.2).

    Use it as ``inference`` of a :class:`KnownObjectDETR`, which should be trained with :class:`KnownAtRandom`.

    Args:
        steps: maximum number of detections that become known, one at a time.
        score_threshold: an image has no further steps if its best detection has a lower score.
    """

    def __init__(self, steps: int = 5, score_threshold: float = 0.5):
        self.steps = steps
        self.score_threshold = score_threshold

    def __call__(self, detect: Callable[[list[dict]], list[dict]], batched_inputs: list[dict]) -> list[dict]:
        """Detect under Detectron2's model interface.

        Returns:
            the known objects with their scores and all detections of the last step, best first.
        """
        return [self.detect_one(detect, x) for x in batched_inputs]

    def detect_one(self, detect: Callable[[list[dict]], list[dict]], image: dict) -> dict:
        """The same for one image; objects given as known stay known."""
        size = tuple(image["image"].shape[-2:])
        given = image.get("known_objects")
        output = detect([image])[0]
        taken: list[Instances] = []
        while len(taken) < self.steps:
            instances = output["instances"]
            if len(instances) == 0 or instances.scores.max() < self.score_threshold:
                break
            best = int(instances.scores.argmax())
            taken.append(instances[best : best + 1])
            known = as_known(taken, size)
            output = detect([{**image, "known_objects": known if given is None else concatenate(given, known)}])[0]
        everything = Instances.cat([*taken, output["instances"]])
        return {**output, "instances": everything[everything.scores.argsort(descending=True, stable=True)]}


def as_known(detections: Sequence[Instances], size: tuple[int, int]) -> Instances:
    """Detections in output pixels as known objects in the pixels of the model's image, ``size`` (height, width)."""
    known = Instances(size)
    boxes = Boxes(torch.cat([x.pred_boxes.tensor for x in detections]))
    height, width = detections[0].image_size
    boxes.scale(size[1] / width, size[0] / height)
    known.gt_boxes = boxes
    known.gt_classes = torch.cat([x.pred_classes for x in detections])
    return known


def concatenate(first: Instances, second: Instances) -> Instances:
    """Known objects of two sources, in the pixels of one image."""
    known = Instances(second.image_size)
    known.gt_boxes = Boxes.cat([first.gt_boxes.to(second.gt_boxes.device), second.gt_boxes])
    known.gt_classes = torch.cat([first.gt_classes.to(second.gt_classes.device), second.gt_classes])
    return known
