# SPDX-License-Identifier: Apache-2.0
"""Denoising queries: DN (DN-DETR section 4) and contrastive DN (DINO section 3.3), for any DETR-like detector.

This module needs only PyTorch. Given the ground truth of a batch, it returns noised labels and boxes for a
detector to reconstruct, with everything that a decoder and a loss need to know about each slot:

    denoising = ContrastiveDenoising(num_classes=80)
    queries = denoising(labels, boxes)            # lists of [n_i] and [n_i, 4], one entry an image
    mask = queries.attention_mask(num_matching)   # True = may not attend

Slots are laid out group after group. With M the largest object count of the batch, a DN group is M slots, object j
at offset j; a contrastive group is M positive slots followed by M negative ones. Slots beyond an image's own object
count are padding: label -1, box (0.5, 0.5, 0.5, 0.5); they attend within their group like the others. The class loss
treats them as background in DINO and ignores them in DN-DETR, as in the authors' code.

The number of slots is limited: for an image with very many objects, a random subset is denoised (``max_queries``).

With gradient accumulation, each batch of an optimizer step is described by a :class:`BatchOfStep`. Its slots are then
laid out as in one batch of all images of the step.

Shapes: B images, Q denoising queries (slots), N matching queries, T = Q + N, C classes, G groups, M objects of the
fullest image.
"""

import sys
from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence


class BatchOfStep(NamedTuple):
    """One of several batches on this rank whose gradients are accumulated for an optimizer step."""

    counts: list[int]  # objects of each image of the step, batch after batch
    first: int  # position in ``counts`` of the batch's first image
    num_batches: int  # batches of the step


def batches_of_step(counts: list[list[int]]) -> list[BatchOfStep]:
    """The batches of a step from the object counts of each batch's images."""
    of_step = [count for batch in counts for count in batch]
    firsts = [sum(map(len, counts[:i])) for i in range(len(counts))]
    return [BatchOfStep(of_step, first, len(counts)) for first in firsts]


class SlotsOfStep(NamedTuple):
    """Slots of a batch, averaged over the batches of a step on this rank."""

    positive: float  # slots that reconstruct an object
    scored: float  # slots that the class loss counts


class DenoisingQueries(NamedTuple):
    """Noised objects that the decoder reconstructs, and the object of each slot."""

    labels: Tensor  # [B, Q] int64 noised class, -1 in padding slots
    boxes: Tensor  # [B, Q, 4] noised cxcywh in [0, 1]
    target: Tensor  # [B, Q] int64 index of the object the slot was made from, -1 in padding slots
    positive: Tensor  # [B, Q] bool: the slot reconstructs its object (a negative slot predicts "no object")
    group: Tensor  # [Q], or [B, Q] where images differ, int64: slots see their own group only
    num_positives: int  # positive slots of the batch, as a host value
    scored: Tensor | None = None  # [B, Q] bool: slots that the class loss counts; None: all
    of_step: SlotsOfStep | None = None  # set for one of several batches of a step

    def attention_mask(self, num_matching: int) -> Tensor:
        """Self-attention mask over Q denoising and ``num_matching`` matching queries, in this order.

        Matching queries attend to no denoising query, because the ground truth would leak to them; denoising queries
        attend to their own group and to the matching queries (DN-DETR section 4.4).

        Returns:
            bool [Q + N, Q + N], or [B, Q + N, Q + N] where groups differ between images; True = may not attend.
        """
        group = self.group
        num_slots = group.shape[-1]
        size = num_slots + num_matching
        blocked = torch.zeros(*group.shape[:-1], size, size, dtype=torch.bool, device=group.device)
        blocked[..., :num_slots, :num_slots] = group[..., :, None] != group[..., None, :]
        blocked[..., num_slots:, :num_slots] = True
        return blocked


#: All objects of images with up to this many objects (no image of COCO has more) are denoised despite the limit.
ALWAYS_DENOISED = 100


class Groups(Protocol):
    """Chooses how many denoising groups each image gets from the object counts of the batch."""

    def __call__(self, counts: list[int]) -> list[int]: ...


class FixedGroups:
    """A constant number of groups (DN-DETR: 5; 10 for its deformable version)."""

    def __init__(self, groups: int = 5):
        self.groups = groups

    def __call__(self, counts: list[int]) -> list[int]:
        return [self.groups] * len(counts)


class DynamicGroups:
    """A budget of noised objects per image; the fullest image of the batch sets the groups (DINO, as released).

    ``num_objects`` 100 makes "100 CDN pairs" (paper section D.3): as many groups as fit the fullest image's
    objects into 100, at least one, and the same number for all images of the batch.
    """

    def __init__(self, num_objects: int = 100):
        self.num_objects = num_objects

    def __call__(self, counts: list[int]) -> list[int]:
        return [max(1, self.num_objects // max(1, *counts))] * len(counts)


class DynamicGroupsPerImage(DynamicGroups):
    """The same budget, divided by each image's own object count, as DINO's appendix D.1 describes it."""

    def __call__(self, counts: list[int]) -> list[int]:
        return [max(1, self.num_objects // max(1, count)) for count in counts]


class NoiseDraws(NamedTuple):
    """The random numbers of a batch of slots, separate from their use so that tests can supply their own."""

    flip: Tensor  # [B, Q] uniform in [0, 1): the label is flipped where it lies below the flip probability
    label: Tensor  # [B, Q] int64 class a flipped label takes
    sign: Tensor  # [B, Q, 4] -1 or 1
    size: Tensor  # [B, Q, 4] uniform in [0, 1)


def shift_corners(boxes: Tensor, shift: Tensor) -> Tensor:
    """Move the corners of boxes by fractions of their half size, keeping them inside the image.

    Args:
        boxes: [..., 4] cxcywh in [0, 1].
        shift: [..., 4] for x0, y0, x1, y1; 1.0 is half the box's width or height.

    Returns:
        [..., 4] cxcywh. A shift below -1 or above 1 can turn a corner over, giving a negative width or height,
        which also happens in the authors' code.
    """
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    corners = torch.cat([centre - half, centre + half], dim=-1)
    corners = (corners + shift * torch.cat([half, half], dim=-1)).clamp(0, 1)
    low, high = corners.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def shift_centre_and_size(boxes: Tensor, shift: Tensor) -> Tensor:
    """Move the centre by fractions of the half size and scale the size (DN-DETR section 4.3).

    Args:
        boxes: [..., 4] cxcywh in [0, 1].
        shift: [..., 4] for cx, cy, w, h in units of w/2, h/2, w, h.

    Returns:
        [..., 4] cxcywh, every value clamped to [0, 1].
    """
    size = boxes[..., 2:]
    return (boxes + shift * torch.cat([size / 2, size], dim=-1)).clamp(0, 1)


class Denoising(nn.Module):
    """Plain denoising (DN-DETR): every slot reconstructs its ground truth.

    Args:
        num_classes: C; noised labels are drawn from 0 .. C - 1.
        groups: rule for the number of groups.
        label_flip_probability: γ, probability that a slot's label is replaced by a random one.
        centre_noise_scale: λ1 in [0, 1]; the centre moves by less than λ1 times half the size, so it stays inside.
        size_noise_scale: λ2 in [0, 1]; width and height change by less than λ2 times themselves.
        max_queries: maximum number of slots of an image with more than 100 objects. If its objects need more, each
            call denoises a random subset: as many objects as fit, but at least 100. The limit takes effect from 500
            objects per image for DINO and from 200 for DN-DETR with 5 groups; images of COCO have fewer than 100. None:
            no limit.
    """

    def __init__(
        self,
        num_classes: int,
        groups: Groups | None = None,
        label_flip_probability: float = 0.2,
        centre_noise_scale: float = 0.4,
        size_noise_scale: float = 0.4,
        max_queries: int | None = 1000,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.groups = groups or FixedGroups(5)
        self.label_flip_probability = label_flip_probability
        self.centre_noise_scale = centre_noise_scale
        self.size_noise_scale = size_noise_scale
        self.max_queries = max_queries

    #: slots made from one object in one group
    copies = 1

    def forward(
        self,
        labels: list[Tensor],
        boxes: list[Tensor],
        generator: Generator | None = None,
        part: BatchOfStep | None = None,
    ) -> DenoisingQueries:
        """Noised queries for a batch.

        Args:
            labels: B tensors [n_i] int64 in 0 .. C - 1; n_i may be 0, even for all images.
            boxes: B tensors [n_i, 4] cxcywh in [0, 1].
            generator: of the tensors' device; the same state gives the same queries.
            part: the batch as one of several of a step; None: it is the only one.

        Raises:
            ValueError: labels and boxes of an image differ in number.
        """
        check_targets(labels, boxes)
        own_counts = [len(image_labels) for image_labels in labels]
        counts = own_counts if part is None else part.counts
        rows = slice(None) if part is None else slice(part.first, part.first + len(labels))
        groups = self.groups(counts)
        device = boxes[0].device
        limits = self.most_objects(groups)
        chosen = choose_objects(own_counts, limits[rows], device, generator)
        if chosen is not None:
            labels = [of_image[index] for of_image, index in zip(labels, chosen, strict=True)]
            boxes = [of_image[index] for of_image, index in zip(boxes, chosen, strict=True)]
        counts = [min(count, limit) for count, limit in zip(counts, limits, strict=True)]
        # Counts are known on the host, so the layout is computed there, without waiting for the device.
        of_step = lay_out(counts, groups, self.copies)
        layout = of_step.rows(rows).to(device)
        draws = self.draw(layout.target.shape, device, generator)
        object_of_slot = layout.target.clamp(min=0)  # [B, Q]
        padding = layout.target < 0
        if max(own_counts) > 0:
            clean_labels = pad_sequence(labels, batch_first=True).gather(1, object_of_slot)
            index = object_of_slot[..., None].expand(-1, -1, 4)
            clean_boxes = pad_sequence(boxes, batch_first=True).gather(1, index)  # [B, M, 4] -> [B, Q, 4]
        else:
            clean_labels = object_of_slot  # without objects all slots are padding, if any; the graph stays the same
            clean_boxes = boxes[0].new_zeros(*object_of_slot.shape, 4)
        noised_labels = torch.where(draws.flip < self.label_flip_probability, draws.label, clean_labels)
        noised_boxes = self.noise_boxes(clean_boxes, layout.positive, draws)
        return DenoisingQueries(
            labels=noised_labels.masked_fill(padding, -1),
            boxes=noised_boxes.masked_fill(padding[..., None], 0.5),
            target=layout.target if chosen is None else original_targets(layout.target, chosen),
            positive=layout.positive & ~padding,
            group=layout.group,
            num_positives=sum(n * g for n, g in zip(counts[rows], groups[rows], strict=True)),
            scored=self.scored_slots(padding),
            of_step=None if part is None else self.mean_slots(of_step.target < 0, counts, groups, part.num_batches),
        )

    def most_objects(self, groups: list[int]) -> list[int]:
        """The largest number of objects of each image that get slots."""
        if self.max_queries is None:
            return [sys.maxsize] * len(groups)
        return [max(ALWAYS_DENOISED, self.max_queries // (self.copies * g)) for g in groups]

    def mean_slots(self, padding: Tensor, counts: list[int], groups: list[int], num_batches: int) -> SlotsOfStep:
        """Means over the batches of a step, from its padding slots, denoised objects and groups; all on the host."""
        scored = self.scored_slots(padding)
        num_scored = padding.numel() if scored is None else int(scored.sum())
        positives = sum(n * g for n, g in zip(counts, groups, strict=True))
        return SlotsOfStep(positives / num_batches, num_scored / num_batches)

    def draw(self, shape: torch.Size, device: torch.device, generator: Generator | None) -> NoiseDraws:
        """Random numbers for slots of shape [B, Q]. A random class may be the true one, as in the authors' code."""
        return NoiseDraws(
            flip=torch.rand(shape, device=device, generator=generator),
            label=torch.randint(self.num_classes, shape, device=device, generator=generator),
            sign=torch.randint(2, (*shape, 4), device=device, generator=generator) * 2 - 1,
            size=torch.rand((*shape, 4), device=device, generator=generator),
        )

    def scored_slots(self, padding: Tensor) -> Tensor | None:
        """Slots that the class loss counts, from the padding slots; both [B, Q] bool."""
        return ~padding

    def noise_boxes(self, boxes: Tensor, positive: Tensor, draws: NoiseDraws) -> Tensor:
        """[B, Q, 4] clean cxcywh -> [B, Q, 4] noised cxcywh."""
        centre, size = (draws.sign * draws.size).split(2, dim=-1)
        shift = torch.cat([centre * self.centre_noise_scale, size * self.size_noise_scale], dim=-1)
        return shift_centre_and_size(boxes, shift)


class ContrastiveDenoising(Denoising):
    """Contrastive denoising (DINO section 3.3): each object gives a positive and a negative slot in every group.

    Positives have less noise than λ1 and reconstruct their object; negatives have between λ1 and λ2 and predict
    "no object". Both corners move by up to λ times half the box's size.

    Args:
        num_classes: C; noised labels are drawn from 0 .. C - 1.
        groups: rule for the number of groups; the paper's 100 CDN pairs by default.
        label_flip_probability: the released code flips with half of ``dn_label_noise_ratio`` 0.5 (Table 8).
        positive_noise_scale: λ1, 1.0 in section D.3 and in the released training commands (0.4 in Table 8).
        negative_noise_scale: λ2, 2.0 in section D.3.
        max_queries: as for :class:`Denoising`.
    """

    copies = 2

    def __init__(
        self,
        num_classes: int,
        groups: Groups | None = None,
        label_flip_probability: float = 0.25,
        positive_noise_scale: float = 1.0,
        negative_noise_scale: float = 2.0,
        max_queries: int | None = 1000,
    ):
        super().__init__(num_classes, groups or DynamicGroups(100), label_flip_probability, max_queries=max_queries)
        if negative_noise_scale < positive_noise_scale:
            raise ValueError(
                f"negative_noise_scale {negative_noise_scale} must not be below "
                f"positive_noise_scale {positive_noise_scale}: negatives lie farther from their object"
            )
        self.positive_noise_scale = positive_noise_scale
        self.negative_noise_scale = negative_noise_scale

    def scored_slots(self, padding: Tensor) -> None:
        """None, for all slots: padding slots are trained as "no object" too."""
        return None

    def noise_boxes(self, boxes: Tensor, positive: Tensor, draws: NoiseDraws) -> Tensor:
        """[B, Q, 4] clean cxcywh -> [B, Q, 4] noised cxcywh."""
        inner, outer = self.positive_noise_scale, self.negative_noise_scale
        near = draws.size * inner
        far = inner + draws.size * (outer - inner)
        return shift_corners(boxes, draws.sign * torch.where(positive[..., None], near, far))


class SlotLayout(NamedTuple):
    """The object of each denoising slot; fields as in :class:`DenoisingQueries`."""

    target: Tensor
    positive: Tensor
    group: Tensor

    def rows(self, rows: slice) -> "SlotLayout":
        """The layout of some of the images."""
        return SlotLayout(
            self.target[rows], self.positive[rows], self.group[rows] if self.group.dim() > 1 else self.group
        )

    def to(self, device: torch.device) -> "SlotLayout":
        return SlotLayout(*(t.to(device, non_blocking=True) for t in self))


def lay_out(counts: list[int], groups: list[int], copies: int) -> SlotLayout:
    """Assign objects to slots.

    Args:
        counts: objects per image.
        groups: groups per image. If all images have the same number, a group has the width of the fullest image and
            starts at the same slot in every image; otherwise each image packs its own groups from the left.
        copies: slots per object and group: 1 (DN), or 2 (positive, then negative).
    """
    shared = len(set(groups)) == 1
    widths = [max(counts)] * len(counts) if shared else counts
    num_slots = max(copies * g * w for g, w in zip(groups, widths, strict=True))
    slot = torch.arange(num_slots)
    width = torch.tensor(widths)[:, None].clamp(min=1)  # [B, 1]
    group = slot // (copies * width)  # [B, Q]
    has_object = (slot % width < torch.tensor(counts)[:, None]) & (group < torch.tensor(groups)[:, None])
    return SlotLayout(
        target=torch.where(has_object, slot % width, -1),
        positive=slot // width % copies == 0,
        group=group[0] if shared else group,
    )


def choose_objects(
    counts: list[int], limits: list[int], device: torch.device, generator: Generator | None
) -> list[Tensor] | None:
    """Indices of the objects of each image that get slots, in ascending order; None where all objects fit."""
    if all(count <= limit for count, limit in zip(counts, limits, strict=True)):
        return None
    return [
        torch.randperm(count, device=device, generator=generator)[:limit].sort().values
        if count > limit
        else torch.arange(count, device=device)
        for count, limit in zip(counts, limits, strict=True)
    ]


def original_targets(target: Tensor, chosen: list[Tensor]) -> Tensor:
    """Targets [B, Q] among the chosen objects -> targets among all objects of each image; -1 stays -1."""
    original = pad_sequence(chosen, batch_first=True).gather(1, target.clamp(min=0))
    return original.masked_fill(target < 0, -1)


def check_targets(labels: list[Tensor], boxes: list[Tensor]) -> None:
    """Raise ValueError where the labels and boxes of an image differ in number."""
    if len(labels) != len(boxes) or not labels:
        raise ValueError(f"need labels and boxes of the same images, got {len(labels)} and {len(boxes)} entries")
    for i, (image_labels, image_boxes) in enumerate(zip(labels, boxes, strict=True)):
        if image_boxes.shape != (len(image_labels), 4):
            raise ValueError(
                f"image {i} of the batch: {len(image_labels)} labels need boxes of shape "
                f"({len(image_labels)}, 4), got {tuple(image_boxes.shape)}"
            )
