# SPDX-License-Identifier: Apache-2.0
"""Bipartite matching between predictions and ground truth (DETR section 3.1)."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dino_d2.layers import cxcywh_to_xyxy, generalized_iou

from .class_loss import FocalClasses, SoftmaxClasses
from .matches import Matches


class HungarianMatcher(nn.Module):
    """Cheapest one-to-one assignment for every layer and image.

    The cost of a pair is a weighted sum of the class cost, the L1 distance of the boxes and their negative
    generalised IoU. The costs of all layers are computed together and copied to the host once. SciPy then solves one
    assignment after another (docs/performance.md explains why threads are not used).

    Args:
        class_cost, bbox_cost, giou_cost: weights (Table 8: 2, 5, 2).
        classes: class cost, focal by default.
        giou_eps: added to both denominators of the generalised IoU.
    """

    def __init__(
        self,
        class_cost: float = 2.0,
        bbox_cost: float = 5.0,
        giou_cost: float = 2.0,
        classes: FocalClasses | SoftmaxClasses | None = None,
        giou_eps: float = 1e-6,
    ):
        super().__init__()
        self.class_cost = class_cost
        self.bbox_cost = bbox_cost
        self.giou_cost = giou_cost
        self.classes = classes or FocalClasses()
        self.giou_eps = giou_eps

    @torch.no_grad()
    def forward(self, logits: Tensor, boxes: Tensor, labels: list[Tensor], targets: list[Tensor]) -> Matches:
        """Match predictions to objects.

        Args:
            logits: [L, B, N, C].
            boxes: [L, B, N, 4] cxcywh in [0, 1].
            labels: B tensors [n_i] int64.
            targets: B tensors [n_i, 4] cxcywh in [0, 1].

        Returns:
            min(N, n_i) pairs per image, images in order.
        """
        num_layers, _, num_queries, _ = logits.shape
        cost = self.cost(logits, boxes, pad_sequence(labels, batch_first=True), pad_sequence(targets, batch_first=True))
        # NaN predictions are matched last; the loss that they enter reports them.
        costs = cost.nan_to_num(nan=1e9, posinf=1e9, neginf=-1e9).cpu().numpy()
        images, queries, objects = [], [], []
        for i, image_labels in enumerate(labels):
            count = len(image_labels)
            pairs = [linear_sum_assignment(costs[layer, i, :, :count]) for layer in range(num_layers)]
            images += [i] * min(num_queries, count)
            queries.append(torch.tensor([query.tolist() for query, _ in pairs], dtype=torch.int64))
            objects.append(torch.tensor([target.tolist() for _, target in pairs], dtype=torch.int64))
        device = logits.device
        return Matches(
            torch.tensor(images, dtype=torch.int64).to(device, non_blocking=True),
            torch.cat(queries, dim=1).to(device, non_blocking=True),
            torch.cat(objects, dim=1).to(device, non_blocking=True),
        )

    def cost(self, logits: Tensor, boxes: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Cost of every pair: predictions as above, padded labels [B, M] and boxes [B, M, 4] -> [L, B, N, M]."""
        boxes = boxes.float()
        l1 = (boxes[..., :, None, :] - targets[:, None]).abs().sum(-1)
        giou = generalized_iou(cxcywh_to_xyxy(boxes)[..., :, None, :], cxcywh_to_xyxy(targets)[:, None], self.giou_eps)
        class_cost = self.classes.cost(logits, labels)
        return self.class_cost * class_cost + self.bbox_cost * l1 - self.giou_cost * giou
