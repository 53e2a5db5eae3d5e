# SPDX-License-Identifier: Apache-2.0
"""The augmentations of DETR, as lists for a mapper. Each function is meant for `LazyCall` in a config."""

from collections.abc import Sequence

import numpy as np

from dino_d2.detectron2.data import transforms as T

#: The resize before a crop makes the longer side at most this many times as long as the largest shorter side, so that
#: a picture of 1 x 3000 pixels needs megabytes and not gigabytes. DETR has no bound; less extreme pictures are resized
#: as there.
_LONGEST_ASPECT = 16

#: The lengths of DETR as shares of its largest shorter side, 800 pixels.
_SHORT_EDGE_SCALES = (0.6, 0.64, 0.68, 0.72, 0.76, 0.8, 0.84, 0.88, 0.92, 0.96, 1.0)
_MAX_SIZE_SCALE = 1333 / 800
_CROP_SHORT_EDGE_SCALES = (0.5, 0.625, 0.75)
_CROP_SIZE_SCALES = (0.48, 0.75)


class RandomChoice(T.Augmentation):
    """Applies one of several lists of augmentations, each with the same probability.

    The draw comes from numpy's global generator, as every draw of Detectron2's augmentations does:
    Detectron2 seeds that one in each loader worker, so one seed covers this choice too.
    """

    def __init__(self, branches: Sequence[Sequence[T.Augmentation]]):
        super().__init__()
        self.branches = [T.AugmentationList(list(branch)) for branch in branches]

    def __call__(self, aug_input: T.AugInput) -> T.TransformList:
        choice = np.random.randint(len(self.branches))  # noqa: NPY002  (see the class docstring)
        return self.branches[choice](aug_input)


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's resize with at least one pixel on each side, for images such as 1 x 3000 pixels."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if isinstance(transform, T.ResizeTransform) and 0 in (transform.new_h, transform.new_w):
            height, width = max(1, transform.new_h), max(1, transform.new_w)
            return T.ResizeTransform(image.shape[0], image.shape[1], height, width, self.interp)
        return transform


def detr_augmentation(
    short_edge_lengths: Sequence[int] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    max_size: int = 1333,
    crop_short_edge_lengths: Sequence[int] = (400, 500, 600),
    crop_size: tuple[int, int] = (384, 600),
    flip_probability: float = 0.5,
) -> list[T.Augmentation]:
    """Training augmentation of DETR, which DINO keeps (paper, appendix D.3, "Training augmentation").

    A horizontal flip; then, with equal chance, either a resize, or a resize to a middling size, a random
    crop and the resize. All lengths are pixels.

    Args:
        short_edge_lengths: one of these becomes the length of the image's shorter side ...
        max_size: ... unless the longer side would pass this; then the longer side gets this length.
        crop_short_edge_lengths: the shorter side before the crop; the longer side is bounded only where it is more
            than 16 times as long.
        crop_size: (smallest, largest) crop side; height and width are drawn independently, both ends
            included, and bounded by the image.
        flip_probability: in [0, 1].

    The 1.5 times larger images of DINO's Swin-L fine-tuning are `short_edge_lengths` 720 to 1200 and
    `max_size` 2000 (same paragraph), with the crop lengths and sizes 1.5 times as large.
    """
    resize = _resize(short_edge_lengths, max_size)
    smallest, largest = crop_size
    crop = T.RandomCrop("absolute_range", (smallest, largest))
    before_crop = _resize(crop_short_edge_lengths, _LONGEST_ASPECT * max(crop_short_edge_lengths))
    return [
        T.RandomFlip(prob=flip_probability, horizontal=True),
        RandomChoice([[resize], [before_crop, crop, resize]]),
    ]


def augmentation_at_size(
    image_size: int,
    short_edge_lengths: Sequence[int] | None = None,
    max_size: int | None = None,
    crop_short_edge_lengths: Sequence[int] | None = None,
    crop_size: Sequence[int] | None = None,
    flip_probability: float = 0.5,
    short_edge_scales: Sequence[float] = _SHORT_EDGE_SCALES,
    crop_short_edge_scales: Sequence[float] = _CROP_SHORT_EDGE_SCALES,
    crop_size_scales: Sequence[float] = _CROP_SIZE_SCALES,
) -> list[T.Augmentation]:
    """:func:`detr_augmentation` for any image size: with 800 pixels and the default scales, it is the same.

    Args:
        image_size: the shorter side of images in evaluation, in pixels.
        short_edge_lengths, max_size, crop_short_edge_lengths, crop_size: in pixels, as there. None computes a length
            from the image size and the scales.
        flip_probability: in [0, 1].
        short_edge_scales, crop_short_edge_scales, crop_size_scales: lengths as shares of the image size. The longer
            side is at most 1.67 times as long as the longest shorter side, as in DETR.
    """
    if short_edge_lengths is None:
        short_edge_lengths = _scaled(image_size, short_edge_scales)
    smallest, largest = crop_size or _scaled(image_size, crop_size_scales)
    return detr_augmentation(
        short_edge_lengths=short_edge_lengths,
        max_size=max_size or round(_MAX_SIZE_SCALE * max(short_edge_lengths)),
        crop_short_edge_lengths=crop_short_edge_lengths or _scaled(image_size, crop_short_edge_scales),
        crop_size=(smallest, largest),
        flip_probability=flip_probability,
    )


def flip_and_resize(
    image_size: int,
    short_edge_lengths: Sequence[int] | None = None,
    max_size: int | None = None,
    flip_probability: float = 0.5,
    short_edge_scales: Sequence[float] = (1.0,),
) -> list[T.Augmentation]:
    """Training augmentation without DETR's crops: a horizontal flip and a resize.

    Arguments of the same name are those of :func:`augmentation_at_size`.
    """
    if short_edge_lengths is None:
        short_edge_lengths = _scaled(image_size, short_edge_scales)
    return [
        T.RandomFlip(prob=flip_probability, horizontal=True),
        _resize(short_edge_lengths, max_size or round(_MAX_SIZE_SCALE * max(short_edge_lengths))),
    ]


def _scaled(image_size: int, scales: Sequence[float]) -> list[int]:
    return [max(1, round(image_size * scale)) for scale in scales]


def resize_augmentation(short_edge_length: int = 800, max_size: int | None = 1333) -> list[T.Augmentation]:
    """Evaluation: the shorter side becomes `short_edge_length`, the longer one at most `max_size` pixels.

    Without a `max_size`, the longer side is at most 1.67 times the shorter side, as with DETR's 800 and 1333 pixels.
    """
    return [_resize((short_edge_length,), max_size or round(_MAX_SIZE_SCALE * short_edge_length))]


def _resize(short_edge_lengths: Sequence[int], max_size: int) -> T.Augmentation:
    return ResizeShortestEdge(tuple(short_edge_lengths), max_size=max_size, sample_style="choice")
