# SPDX-License-Identifier: Apache-2.0
"""The training losses: class, L1 and generalised IoU on every decoder layer, on the proposals and on denoising."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dino_d2.denoising import BatchOfStep, DenoisingQueries
from dino_d2.layers import cxcywh_to_xyxy, generalized_iou
from dino_d2.modeling.contracts import DetectorOutput

from .class_loss import FocalClasses, QueryCounts, SoftmaxClasses
from .matcher import HungarianMatcher
from .matches import Matches


class SetCriterion(nn.Module):
    """Weighted losses of a batch (DINO section D.3).

    Matching queries and proposals are matched to the ground truth; denoising queries know their objects by
    construction. All layers are computed together.

    Losses are divided by the number of objects. With gradient accumulation this is the mean number over the batches of
    the step, so that the mean of their losses equals the loss of one batch of all images.

    Args:
        matcher: assigns predictions to objects.
        class_weight, bbox_weight, giou_weight: loss weights (Table 8: 1, 5, 2).
        proposal_weight: factor on the proposals' losses.
        classes: class loss, focal by default.
        giou_eps: added to both denominators of the generalised IoU.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        class_weight: float = 1.0,
        bbox_weight: float = 5.0,
        giou_weight: float = 2.0,
        proposal_weight: float = 1.0,
        classes: FocalClasses | SoftmaxClasses | None = None,
        giou_eps: float = 1e-6,
    ):
        super().__init__()
        self.matcher = matcher
        self.weights = {"class": class_weight, "bbox": bbox_weight, "giou": giou_weight}
        self.proposal_weight = proposal_weight
        self.classes = classes or FocalClasses()
        self.giou_eps = giou_eps

    def forward(
        self,
        output: DetectorOutput,
        labels: list[Tensor],
        boxes: list[Tensor],
        denoising_queries: DenoisingQueries | None = None,
        part: BatchOfStep | None = None,
    ) -> dict[str, Tensor]:
        """Weighted losses by name, ready to be summed.

        ``loss_class``, ``loss_bbox`` and ``loss_giou`` belong to the last layer; the suffix ``_0`` .. names the
        layers before it, ``_enc`` the proposals, ``_dn`` and ``_dn_0`` .. the denoising part.

        Args:
            output: predictions, denoising queries first.
            labels: B tensors [n_i] int64 in 0 .. C - 1.
            boxes: B tensors [n_i, 4] cxcywh in [0, 1].
            denoising_queries: those to which the first Q predictions of ``output`` belong.
            part: the batch as one of several of a step; None: it is the only one.
        """
        num_slots = 0 if denoising_queries is None else denoising_queries.target.shape[1]
        logits, predicted = output.logits[:, :, num_slots:], output.boxes[:, :, num_slots:]
        layer_names = layer_suffixes(len(logits))
        if output.proposals is not None:
            logits = torch.cat([logits, output.proposals.logits[None]])
            predicted = torch.cat([predicted, output.proposals.boxes[None]])
            layer_names.append("_enc")
        matches = self.matcher(logits, predicted, labels, boxes)
        num_boxes = mean_objects(labels, part, logits.device)
        padded_labels = pad_sequence(labels, batch_first=True)  # [B, M]
        padded_boxes = pad_sequence(boxes, batch_first=True)  # [B, M, 4]

        counts = None if part is None else query_counts(part, num_queries=logits.shape[2])
        losses = self.part_losses(logits, predicted, matches, padded_labels, padded_boxes, num_boxes, counts=counts)
        named = self.name_losses(losses, layer_names)
        if denoising_queries is not None:
            named |= self.reconstruction_losses(output, labels, boxes, denoising_queries, part)
        return named

    def reconstruction_losses(
        self,
        output: DetectorOutput,
        labels: list[Tensor],
        boxes: list[Tensor],
        denoising_queries: DenoisingQueries,
        part: BatchOfStep | None = None,
    ) -> dict[str, Tensor]:
        """The ``_dn`` losses of the denoising part; arguments as for :meth:`forward`."""
        num_slots = denoising_queries.target.shape[1]
        num_boxes = mean_objects(labels, part, output.logits.device)
        positives: float = denoising_queries.num_positives
        objects: float = sum(map(len, labels))
        counts = None
        if part is not None:
            of_step = denoising_queries.of_step
            assert of_step is not None  # set for the queries of one batch of a step
            positives, objects = of_step.positive, sum(part.counts) / part.num_batches
            counts = QueryCounts(matched=of_step.positive, unmatched=of_step.scored - of_step.positive)
        # Every object is reconstructed once in each group; the loss is the mean over groups.
        repeats = positives / objects if positives else 1.0
        losses = self.part_losses(
            output.logits[:, :, :num_slots],
            output.boxes[:, :, :num_slots],
            denoising_matches(denoising_queries, len(output.logits)),
            pad_sequence(labels, batch_first=True),
            pad_sequence(boxes, batch_first=True),
            num_boxes * repeats,
            denoising_queries.scored,
            counts,
        )
        return self.name_losses(losses, [f"_dn{suffix}" for suffix in layer_suffixes(len(output.logits))])

    def part_losses(
        self,
        logits: Tensor,
        predicted: Tensor,
        matches: Matches,
        labels: Tensor,
        boxes: Tensor,
        num_boxes: Tensor,
        scored: Tensor | None = None,
        counts: QueryCounts | None = None,
    ) -> dict[str, Tensor]:
        """Unweighted losses of each layer, [L]: logits [L, B, T, C], boxes [L, B, T, 4], padded ground truth."""
        layer = torch.arange(len(logits), device=logits.device)[:, None]  # [L, 1]
        matched = predicted[layer, matches.image, matches.query].float()  # [L, P, 4]
        truth = boxes[matches.image, matches.target]
        l1 = (matched - truth).abs().sum((1, 2))
        giou = generalized_iou(cxcywh_to_xyxy(matched), cxcywh_to_xyxy(truth), self.giou_eps)
        return {
            "class": self.classes.loss(logits, matches, labels, num_boxes, scored, counts),
            "bbox": l1 / num_boxes,
            "giou": (1 - giou).sum(1) / num_boxes,
        }

    def name_losses(self, losses: dict[str, Tensor], suffixes: list[str]) -> dict[str, Tensor]:
        """{kind: [L]} -> {"loss_" + kind + suffix: weighted scalar}."""
        named = {}
        for kind, values in losses.items():
            for suffix, value in zip(suffixes, values.unbind(), strict=True):
                factor = self.proposal_weight if suffix == "_enc" else 1.0
                named[f"loss_{kind}{suffix}"] = value * (self.weights[kind] * factor)
        return named


def layer_suffixes(num_layers: int) -> list[str]:
    """Loss name suffixes of the decoder layers: the last one has none."""
    return [f"_{i}" for i in range(num_layers - 1)] + [""]


def denoising_matches(queries: DenoisingQueries, num_layers: int) -> Matches:
    """Every positive slot is matched to its own object, in every layer."""
    # The host knows their number; nonzero() would wait for the device to count them.
    image, slot = torch.nonzero_static(queries.positive, size=queries.num_positives).unbind(1)
    target = queries.target[image, slot]
    return Matches(image, slot.expand(num_layers, -1), target.expand(num_layers, -1))


def query_counts(part: BatchOfStep, num_queries: int) -> QueryCounts:
    """Matched and unmatched queries of a batch, averaged over the batches of the step."""
    matched = sum(min(num_queries, count) for count in part.counts)
    return QueryCounts(matched / part.num_batches, (num_queries * len(part.counts) - matched) / part.num_batches)


def mean_objects(labels: list[Tensor], part: BatchOfStep | None, device: torch.device) -> Tensor:
    """Mean number of objects per rank and batch of the step; at least 1 per rank and step."""
    if part is None:
        return mean_over_ranks(sum(map(len, labels)), device)
    return mean_over_ranks(sum(part.counts), device) / part.num_batches


_together = True  # whether ranks share the number of objects


@contextlib.contextmanager
def each_rank_alone() -> Iterator[None]:
    """Inside, losses are divided by the objects of this rank's batch; other ranks need not compute any."""
    global _together
    before, _together = _together, False
    try:
        yield
    finally:
        _together = before


def mean_over_ranks(count: int, device: torch.device) -> Tensor:
    """Mean number of objects per rank, at least 1; gradients are averaged over ranks, so each object counts equally."""
    total = torch.tensor(float(count)).to(device, non_blocking=True)
    if _together and dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
        total = total / dist.get_world_size()
    return total.clamp(min=1)
