# SPDX-License-Identifier: Apache-2.0
"""Selects detections from the predictions of the last layer."""

from typing import NamedTuple

from torch import Tensor

from dino_d2.layers import cxcywh_to_xyxy


class Detections(NamedTuple):
    """K detections of each image, best first."""

    scores: Tensor  # [B, K] in [0, 1]
    classes: Tensor  # [B, K] int64
    boxes: Tensor  # [B, K, 4] normalised xyxy


class TopPairs:
    """The best (query, class) pairs of all N · C sigmoid scores (DINO keeps 300, for COCO's 100 per image).

    A query may give several detections of different classes. There is no non-maximum suppression.

    Args:
        top_k: K, limited to N · C.
    """

    def __init__(self, top_k: int = 300):
        self.top_k = top_k

    def __call__(self, logits: Tensor, boxes: Tensor) -> Detections:
        """Logits [B, N, C] and boxes [B, N, 4] (cxcywh in [0, 1]) -> K detections per image."""
        num_classes = logits.shape[-1]
        scores = logits.float().sigmoid().flatten(1)  # [B, N * C]
        scores, index = scores.topk(min(self.top_k, scores.shape[1]), dim=1)
        query = (index // num_classes)[..., None].expand(-1, -1, 4)
        return Detections(scores, index % num_classes, cxcywh_to_xyxy(boxes.float()).gather(1, query))


class BestClasses:
    """One detection per query, with its most likely class (DETR section 3.1, whose last logit is "no object")."""

    def __call__(self, logits: Tensor, boxes: Tensor) -> Detections:
        """Logits [B, N, C + 1] and boxes [B, N, 4] (cxcywh in [0, 1]) -> N detections per image."""
        scores, classes = logits.float().softmax(-1)[..., :-1].max(-1)  # [B, N]
        order = scores.argsort(dim=1, descending=True, stable=True)
        boxes = cxcywh_to_xyxy(boxes.float()).gather(1, order[..., None].expand(-1, -1, 4))
        return Detections(scores.gather(1, order), classes.gather(1, order), boxes)
