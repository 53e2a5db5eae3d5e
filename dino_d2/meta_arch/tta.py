# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation the DETR way: one-to-one ensembling, no suppression (DINO appendix A).

A detection transformer gives one box an object. Pooling the boxes of several views of an image and suppressing
duplicates, as detectors with NMS do, would undo that. Here the boxes of the main view stay, all of them and no others;
the other views only help to place them.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_d2.detectron2.structures import Boxes, Instances, pairwise_iou


class View:
    """One augmentation of an image, and how much its boxes count.

    Args:
        scale: of both sides, relative to the image as the data mapper made it.
        flip: mirror left and right.
        weight: w of appendix A, above 0; only its ratio to the other weights matters.
    """

    def __init__(self, scale: float = 1.0, flip: bool = False, weight: float = 1.0):
        if scale <= 0 or weight <= 0:
            raise ValueError(f"a view needs a scale and a weight above 0, not scale={scale}, weight={weight}")
        self.scale = scale
        self.flip = flip
        self.weight = weight

    def image(self, image: Tensor) -> Tensor:
        """uint8 [3, H, W] as this view shows it, [3, round(H · scale), round(W · scale)]."""
        if self.scale != 1:
            size = [max(1, round(side * self.scale)) for side in image.shape[-2:]]
            resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
            image = resized.round().clamp(0, 255).to(image.dtype)
        return image.flip(-1) if self.flip else image

    def boxes_back(self, boxes: Tensor, width: int) -> Tensor:
        """xyxy boxes found in this view, in pixels of an output of that width -> in the image as it was."""
        if not self.flip:
            return boxes
        x0, y0, x1, y1 = boxes.unbind(-1)
        return torch.stack([width - x1, y0, width - x0, y1], dim=-1)


class OneToOneEnsemble:
    """Detects in the image and in views of it, and places each box of the image by the boxes that agree with it.

    The image as the data mapper made it is the main augmentation Aug_0. `model.inference` of a recipe takes it.

    Args:
        views: the other augmentations, Aug_1 to Aug_{n-1}.
        weight: w of the main augmentation.
        iou_threshold: a box of a view helps to place a main box of the same class above this IoU.
    """

    def __init__(self, views: Sequence[View], weight: float = 1.0, iou_threshold: float = 0.7):
        self.views = list(views)
        self.weight = weight
        self.iou_threshold = iou_threshold

    def __call__(self, detect: Callable[[list[dict]], list[dict]], batched_inputs: list[dict]) -> list[dict]:
        """Detect under Detectron2's model interface; see ``DETR.forward`` for both lists.

        Args:
            detect: inputs -> outputs with "instances"; called once for each view.
            batched_inputs: dicts with "image".

        Returns:
            the main augmentation's outputs with other places of the boxes.
        """
        outputs = detect(batched_inputs)
        sizes = [output["instances"].image_size for output in outputs]
        found = [[output["instances"]] for output in outputs]
        for view in self.views:
            # The output size is the main one, so that boxes of all scales come back in the same pixels.
            shown = [
                {**x, "image": view.image(x["image"]), "height": height, "width": width}
                for x, (height, width) in zip(batched_inputs, sizes, strict=True)
            ]
            for predictions, output, (_, width) in zip(found, detect(shown), sizes, strict=True):
                instances = output["instances"]
                instances.pred_boxes = Boxes(view.boxes_back(instances.pred_boxes.tensor, width))
                predictions.append(instances)
        weights = [self.weight, *(view.weight for view in self.views)]
        for output, predictions in zip(outputs, found, strict=True):
            output["instances"] = one_to_one(predictions, weights, self.iou_threshold)
        return outputs


def one_to_one(predictions: Sequence[Instances], weights: Sequence[float], iou_threshold: float) -> Instances:
    """The ensemble of appendix A: main boxes, each averaged with the best box of every augmentation that agrees.

    For a main prediction, I^i is 1 where augmentation i has a box of the same class with an IoU above the threshold
    (always for i = 0), and idx(i) is its box with the highest IoU. The new box is

        b = Σ I^i w^i s^i b^i / Σ I^i w^i s^i,

    with scores s. The paper prints Σ I^i under the fraction, which is the same once the weights w^i s^i of the boxes
    that take part are scaled to 1 on average; unscaled it would shrink boxes towards the corner of the image.
    Labels, scores and order stay those of the main augmentation; the paper ensembles boxes alone.

    Args:
        predictions: of one image by n augmentations, the main one first, all in the same pixels; with ``pred_boxes``,
            ``scores`` and ``pred_classes``.
        weights: w^0 to w^{n-1}.
        iou_threshold: in [0, 1].

    Returns:
        ``Instances`` as many as ``predictions[0]``.
    """
    main = predictions[0]
    share = weights[0] * main.scores  # [K]
    weighted = share[:, None] * main.pred_boxes.tensor
    total = share
    for weight, other in zip(weights[1:], predictions[1:], strict=True):
        if len(other) == 0:
            continue
        iou = pairwise_iou(main.pred_boxes, other.pred_boxes)  # [K, K']
        iou = iou.masked_fill(main.pred_classes[:, None] != other.pred_classes, -1.0)
        best, index = iou.max(dim=1)
        share = weight * other.scores[index] * (best > iou_threshold)
        weighted = weighted + share[:, None] * other.pred_boxes.tensor[index]
        total = total + share
    # A main score may have underflowed to 0 with nobody to help it: its box stays.
    boxes = torch.where(total[:, None] > 0, weighted / total[:, None], main.pred_boxes.tensor)
    ensemble = Instances(main.image_size)
    ensemble.pred_boxes = Boxes(boxes)
    ensemble.scores = main.scores
    ensemble.pred_classes = main.pred_classes
    return ensemble
