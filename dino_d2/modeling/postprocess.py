"""From the last layer's predictions to detections."""

from typing import NamedTuple

from torch import Tensor

from dino_d2.layers import cxcywh_to_xyxy


class Detections(NamedTuple):
    """The K best (query, class) pairs of each image, best first."""

    scores: Tensor  # [B, K] in [0, 1]
    classes: Tensor  # [B, K] int64
    boxes: Tensor  # [B, K, 4] normalised xyxy


def select_detections(logits: Tensor, boxes: Tensor, top_k: int = 300) -> Detections:
    """Top K over all N · C sigmoid scores (DINO keeps 300, for COCO's 100 per image).

    A query may give several detections of different classes; nothing is suppressed.

    Args:
        logits: [B, N, C].
        boxes: [B, N, 4] cxcywh in [0, 1].
        top_k: K; where N · C is smaller, that many.
    """
    num_classes = logits.shape[-1]
    scores = logits.float().sigmoid().flatten(1)  # [B, N * C]
    scores, index = scores.topk(min(top_k, scores.shape[1]), dim=1)
    query = (index // num_classes)[..., None].expand(-1, -1, 4)
    return Detections(scores, index % num_classes, cxcywh_to_xyxy(boxes.float()).gather(1, query))
