# SPDX-License-Identifier: Apache-2.0
"""Box maths: conversions, the inverse sigmoid and the generalised IoU."""

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre, width and height to corners; [..., 4] -> [..., 4], any unit."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners to centre, width and height; [..., 4] -> [..., 4], any unit."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Logit of a value in [0, 1]; the value and its complement are kept above ``eps``.

    DINO's decoder uses ``eps`` 1e-3, so no anchor lies further out than a logit of about 6.9.
    """
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def box_area(boxes: Tensor) -> Tensor:
    """Area of xyxy boxes; [..., 4] -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def generalized_iou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised IoU (Rezatofighi et al. 2019) of xyxy boxes, in [-1, 1].

    The leading dimensions broadcast: ``generalized_iou(a[:, None], b[None])`` gives all pairs.
    ``eps`` is added to both denominators, as in the code of DINO, DN-DETR and DAB-DETR; it matters for tiny normalised
    boxes. DETR and Deformable DETR have none.
    """
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = overlap[..., 0] * overlap[..., 1]
    union = box_area(a) + box_area(b) - intersection
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    hull_area = hull[..., 0] * hull[..., 1]
    return intersection / (union + eps) - (hull_area - union) / (hull_area + eps)
