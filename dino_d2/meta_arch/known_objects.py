# SPDX-License-Identifier: Apache-2.0
"""Detection given known objects (DN-DETR section 5.7.1).

A denoising query consists of a label and a box, so a known object can enter the decoder as a denoising query that is
visible to the matching queries.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dino_d2.denoising import BatchOfStep, Denoising, DenoisingQueries, FixedGroups, batches_of_step
from dino_d2.modeling import DetectorOutput

from .detr import DETR, matching_part, normalised_boxes


class KnownClasses:
    """Rule of Table 3: objects of these classes are known, all others are not."""

    def __init__(self, classes: Sequence[int]):
        self.classes = list(classes)

    def __call__(self, labels: Tensor) -> Tensor:
        """[n] int64 -> [n] bool, True = known."""
        return torch.isin(labels, torch.tensor(self.classes, dtype=labels.dtype).to(labels.device))


class KnownAtRandom:
    """A random subset of an image's objects is known, from none to all, as in progressive inference."""

    def __call__(self, labels: Tensor) -> Tensor:
        """[n] int64 -> [n] bool, True = known; the fraction is drawn uniformly for each image."""
        return torch.rand(len(labels), device=labels.device) < torch.rand((), device=labels.device)


def known_classes(num_classes: int, share: float, seed: int = 0) -> list[int]:
    """The known classes of a random split: floor(share · num_classes) classes (Table 3: 0.7 and 0.5 of COCO's 80)."""
    order = np.random.default_rng(seed).permutation(num_classes)
    return sorted(order[: int(share * num_classes + 1e-9)].tolist())


def unknown_classes(num_classes: int, share: float, seed: int = 0) -> list[int]:
    """The unknown classes of the same split."""
    known = known_classes(num_classes, share, seed)
    return [c for c in range(num_classes) if c not in known]


class VisibleQueries(DenoisingQueries):
    """Denoising queries that matching queries attend to ("we do not use an attention mask"), except padding slots."""

    def attention_mask(self, num_matching: int) -> Tensor:
        """Bool [B, Q + N, Q + N], True = may not attend."""
        num_slots = self.target.shape[1]
        blocked = super().attention_mask(num_matching).expand(len(self.target), -1, -1).clone()
        blocked[:, num_slots:, :num_slots] = False
        blocked[:, :, :num_slots] |= (self.target < 0)[:, None]
        return blocked


class KnownPart(NamedTuple):
    """A batch of a step: a mask of its known objects, and the counts of known and unknown objects in the step."""

    known: list[Tensor]  # of each image, [n] bool
    of_known: BatchOfStep
    of_unknown: BatchOfStep


class KnownObjectDETR(DETR):
    """Known objects are denoising queries visible to the matching queries, which detect the other objects.

    In training, ``known`` objects are noised and reconstructed as usual, but take no part in the matching. In
    evaluation an input may have "known_objects": ``Instances`` of the size of "image" with ``gt_boxes`` and
    ``gt_classes``. Inputs without it are processed as by any other model.

    Args:
        known: which objects are known in training, :class:`KnownClasses` or :class:`KnownAtRandom`.
        kwargs: arguments of :class:`DETR`; ``denoising`` is required, with one group so that objects are visible once.
    """

    def __init__(self, known: Callable[[Tensor], Tensor], **kwargs: Any):
        super().__init__(**kwargs)
        if self.denoising is None:
            raise ValueError("known objects enter as denoising queries: set model.denoising")
        self.known = known
        # Known objects are given without noise.
        self.exact = Denoising(self.detector.num_classes, FixedGroups(1), 0, 0, 0, max_queries=None)

    def parts_of_step(self, batches: list[list[dict]]) -> list[KnownPart]:
        known = [[self.known(labels) for labels in self.ground_truth(batch)[0]] for batch in batches]
        of_known = batches_of_step([[int(x.sum()) for x in batch] for batch in known])
        of_unknown = batches_of_step([[int((~x).sum()) for x in batch] for batch in known])
        return [KnownPart(*part) for part in zip(known, of_known, of_unknown, strict=True)]

    def losses(self, batched_inputs: list[dict], part: KnownPart | None = None) -> dict[str, Tensor]:
        """Matching losses of unknown objects and reconstruction losses of known ones, with the usual names."""
        images, padding_mask = self.prepare_images(batched_inputs)
        labels, boxes = self.ground_truth(batched_inputs)
        if part is None:
            known, of_known, of_unknown = [self.known(x) for x in labels], None, None
        else:
            known, of_known, of_unknown = part
        unknown_labels = [x[~k] for x, k in zip(labels, known, strict=True)]
        unknown_boxes = [x[~k] for x, k in zip(boxes, known, strict=True)]
        known_labels = [x[k] for x, k in zip(labels, known, strict=True)]
        known_boxes = [x[k] for x, k in zip(boxes, known, strict=True)]
        assert self.denoising is not None  # checked above
        denoising_queries = VisibleQueries(*self.denoising(known_labels, known_boxes, part=of_known))
        output = self.detector(images, padding_mask, denoising_queries)
        matching = matching_part(output, denoising_queries)
        return self.criterion(
            matching, unknown_labels, unknown_boxes, part=of_unknown
        ) | self.criterion.reconstruction_losses(output, known_labels, known_boxes, denoising_queries, of_known)

    def predict(self, images: Tensor, batched_inputs: list[dict]) -> DetectorOutput:
        """Predictions of the matching queries, which attend to each input's "known_objects"."""
        known = [x["known_objects"].to(self.device) if "known_objects" in x else None for x in batched_inputs]
        if not any(known):
            return self.detector(images)
        labels = [images.new_zeros(0, dtype=torch.int64) if x is None else x.gt_classes for x in known]
        boxes = [images.new_zeros(0, 4) if x is None else normalised_boxes(x) for x in known]
        known_queries = VisibleQueries(*self.exact(labels, boxes))
        return matching_part(self.detector(images, None, known_queries), known_queries)
