# SPDX-License-Identifier: Apache-2.0
"""Class losses: the focal loss on sigmoids, and DETR's softmax with "no object".

Each class has a cost, by which queries are matched to objects, and a loss for the matched pairs.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .matches import Matches


class QueryCounts(NamedTuple):
    """Queries of a batch that the class loss counts, averaged over the batches of a step on this rank."""

    matched: float
    unmatched: float


class FocalClasses:
    """A sigmoid for every class and the focal loss (Lin et al. 2017; DINO section D.3).

    Args:
        alpha, gamma: balance and exponent (0.25, 2).
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0):
        self.alpha = alpha
        self.gamma = gamma

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cost of every pair: logits [L, B, N, C], padded labels [B, M] -> [L, B, N, M]."""
        probability = of_labels(logits.float(), labels).sigmoid()
        positive = self.alpha * (1 - probability) ** self.gamma * -(probability + 1e-8).log()
        negative = (1 - self.alpha) * probability**self.gamma * -(1 - probability + 1e-8).log()
        return positive - negative

    def loss(
        self,
        logits: Tensor,
        matches: Matches,
        labels: Tensor,
        num_boxes: Tensor,
        scored: Tensor | None = None,
        counts: QueryCounts | None = None,
    ) -> Tensor:
        """Sum over all queries and classes, divided by the number of objects: [L].

        Args:
            logits: [L, B, N, C].
            matches: pairs of queries and objects; all other queries are background.
            labels: [B, M] padded.
            num_boxes: objects, a scalar.
            scored: [B, N] bool, queries that count; None: all.
            counts: not used: the sum is divided by objects.
        """
        layer = torch.arange(len(logits), device=logits.device)[:, None]  # [L, 1]
        matched_logits = logits[layer, matches.image, matches.query].float()  # [L, P, C]
        matched_labels = labels[matches.image, matches.target]  # [L, P]
        # Sum the background loss of all entries, then correct the matched ones: no one-hot target is needed.
        own = matched_logits.gather(-1, matched_labels[..., None])[..., 0]  # [L, P]
        background = self.background_loss(logits.float())
        if scored is not None:
            background = background * scored[..., None]
        total = background.flatten(1).sum(1)
        total = total + (self.object_loss(own) - self.background_loss(own)).sum(1)
        return total / num_boxes

    def object_loss(self, logits: Tensor) -> Tensor:
        """Focal loss where the class is present (Lin et al. 2017, equation 5), element by element."""
        return self.alpha * (1 - logits.sigmoid()) ** self.gamma * F.softplus(-logits)

    def background_loss(self, logits: Tensor) -> Tensor:
        """Focal loss where the class is absent, element by element."""
        return (1 - self.alpha) * logits.sigmoid() ** self.gamma * F.softplus(logits)


class SoftmaxClasses:
    """One softmax over all classes and "no object", which is the last logit (DETR section 3.1).

    Args:
        no_object_weight: weight of queries without an object in the mean (DETR section A.4: 0.1).
    """

    def __init__(self, no_object_weight: float = 0.1):
        self.no_object_weight = no_object_weight

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Cost of every pair, minus the probability: logits [L, B, N, C + 1], labels [B, M] -> [L, B, N, M]."""
        return -of_labels(logits.float().softmax(-1), labels)

    def loss(
        self,
        logits: Tensor,
        matches: Matches,
        labels: Tensor,
        num_boxes: Tensor,
        scored: Tensor | None = None,
        counts: QueryCounts | None = None,
    ) -> Tensor:
        """Weighted mean of the cross-entropy over all queries: [L].

        Args:
            logits: [L, B, N, C + 1].
            matches: pairs of queries and objects; all other queries are "no object".
            labels: [B, M] padded.
            num_boxes: not used: the mean is over queries.
            scored: [B, N] bool, queries that count; None: all.
            counts: divisors of the sum for one of several batches of a step; None: those of this batch.
        """
        layer = torch.arange(len(logits), device=logits.device)[:, None]  # [L, 1]
        no_object = logits.shape[-1] - 1
        target = torch.full(logits.shape[:-1], no_object, device=logits.device)  # [L, B, N]
        target[layer, matches.image, matches.query] = labels[matches.image, matches.target]
        log_probability = logits.float().log_softmax(-1).gather(-1, target[..., None])[..., 0]
        weight = torch.where(target == no_object, self.no_object_weight, 1.0)
        if scored is not None:
            weight = weight * scored
        if counts is None:
            total = weight.flatten(1).sum(1)
        else:
            total = weight.new_full((len(logits),), counts.matched + self.no_object_weight * counts.unmatched)
        total = total.clamp(min=1e-6)  # without any query to count: zero, not NaN
        return -(weight * log_probability).flatten(1).sum(1) / total


def of_labels(x: Tensor, labels: Tensor) -> Tensor:
    """Values of queries at the classes of an image's objects: [L, B, N, C], labels [B, M] -> [L, B, N, M]."""
    num_layers, _, num_queries, _ = x.shape
    return x.gather(-1, labels[None, :, None].expand(num_layers, -1, num_queries, -1))
