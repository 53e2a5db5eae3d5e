# SPDX-License-Identifier: Apache-2.0
"""The augmentations of DETR, as lists for a mapper. Each function is meant for `LazyCall` in a config."""

from collections.abc import Sequence

import numpy as np

from dino_d2.detectron2.data import transforms as T

#: The resize before a crop makes the longer side at most this many times as long as the largest shorter side, so that
#: a picture of 1 x 3000 pixels needs megabytes and not gigabytes. DETR has no bound; less extreme pictures are resized
#: as there.
_LONGEST_ASPECT = 16


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
    """Detectron2's resize, but each side keeps at least one pixel, as for a picture of 1 x 3000 pixels."""

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


def resize_augmentation(short_edge_length: int = 800, max_size: int = 1333) -> list[T.Augmentation]:
    """Evaluation: the shorter side becomes `short_edge_length`, the longer one at most `max_size` pixels."""
    return [_resize((short_edge_length,), max_size)]


def _resize(short_edge_lengths: Sequence[int], max_size: int) -> T.Augmentation:
    return ResizeShortestEdge(tuple(short_edge_lengths), max_size=max_size, sample_style="choice")
