# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation for detection transformers: one-to-one ensembling without suppression (DINO appendix A).

A detection transformer predicts one box per object, so it needs no suppression of duplicates. Pooling the boxes of
several views would make it necessary. Here the result has exactly the boxes of the main view, and the other views only
correct their coordinates.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dino_d2.detectron2.structures import Boxes, Instances, pairwise_iou


class View:
    """One augmentation of an image, and the weight of its boxes.

    Args:
        scale: factor for both sides of the data mapper's image.
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
        """Augment an image: uint8 [3, H, W] -> [3, round(H · scale), round(W · scale)]."""
        if self.scale != 1:
            size = [max(1, round(side * self.scale)) for side in image.shape[-2:]]
            resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
            image = resized.round().clamp(0, 255).to(image.dtype)
        return image.flip(-1) if self.flip else image

    def boxes_back(self, boxes: Tensor, width: int) -> Tensor:
        """xyxy boxes found in this view, in pixels of an output of that width -> boxes in the original image."""
        if not self.flip:
            return boxes
        x0, y0, x1, y1 = boxes.unbind(-1)
        return torch.stack([width - x1, y0, width - x0, y1], dim=-1)


class OneToOneEnsemble:
    """Detects in an image and its views, and averages each box of the image with the corresponding boxes of the views.

    The data mapper's image is the main augmentation Aug_0. Use this class as `model.inference` of a recipe.

    Args:
        views: the other augmentations, Aug_1 to Aug_{n-1}.
        weight: w of the main augmentation.
        iou_threshold: a view's box is averaged with a main box of the same class if their IoU is above this value.
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
            the main augmentation's outputs with averaged boxes.
        """
        outputs = detect(batched_inputs)
        sizes = [output["instances"].image_size for output in outputs]
        found = [[output["instances"]] for output in outputs]
        for view in self.views:
            # All views have the output size of the main one, so their boxes are in the same pixels.
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
    """The ensemble of appendix A: each main box is averaged with the corresponding box of every augmentation.

    For a main prediction, I^i is 1 if augmentation i has a box of the same class with an IoU above the threshold
    (always for i = 0), and idx(i) is its box with the highest IoU. The new box is

        b = Σ I^i w^i s^i b^i / Σ I^i w^i s^i,

    with scores s. The paper prints Σ I^i as the denominator. This is equal only if the weights w^i s^i of the averaged
    boxes are 1 on average; otherwise it would shrink boxes towards the corner of the image. Labels, scores and order
    are those of the main augmentation, because the paper combines only boxes.

    Args:
        predictions: one for each of n augmentations, the main one first, all in the same pixels; with ``pred_boxes``,
            ``scores`` and ``pred_classes``.
        weights: w^0 to w^{n-1}.
        iou_threshold: in [0, 1].

    Returns:
        ``Instances`` of the length of ``predictions[0]``.
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
    # If a main score has underflowed to 0 and no other box corresponds to it, its box is kept.
    boxes = torch.where(total[:, None] > 0, weighted / total[:, None], main.pred_boxes.tensor)
    ensemble = Instances(main.image_size)
    ensemble.pred_boxes = Boxes(boxes)
    ensemble.scores = main.scores
    ensemble.pred_classes = main.pred_classes
    return ensemble
