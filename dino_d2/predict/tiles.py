# SPDX-License-Identifier: Apache-2.0
"""Tiled prediction: detections of overlapping parts of a large image, joined to those of the image.

A model that sees a large image in the recipe's size loses its small objects. Here it sees the image in tiles, and once
as a whole for the objects that no tile holds. Each view contributes the objects that it shows completely:

1. a box that touches an edge of its tile inside the image is removed, because the object may go on beyond it. If it is
   smaller than the overlap, another tile shows it completely; otherwise the view of the whole image does;
2. of two boxes of one class from *different* views with an IoU above 0.5, only the better one is kept. Boxes of one
   view never remove each other, so that close objects stay apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.errors import UserError

#: A box this near to an edge of its tile touches it, in pixels; it allows for the error of a detector's boxes.
TOUCHING = 2.0
SAME_OBJECT_IOU = 0.5


class View(NamedTuple):
    """A rectangle of an image, in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Tiling:
    """Square tiles that overlap.

    Args:
        size: side of a tile in pixels of the image.
        overlap: the least overlap of neighbouring tiles in pixels. Objects up to about this size are found at full
            resolution wherever they are.

    Raises:
        UserError: the size is not positive, the overlap is not in 0..size-1, or one of them is no whole number.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        values: tuple[object, ...] = (self.size, self.overlap)  # callers without a type checker may pass anything
        for value in values:
            if value is True or value is False or not isinstance(value, Integral):
                raise UserError(f"tiles and their overlap must be whole numbers of pixels, not {value!r}")
        if self.size < 1:
            raise UserError(f"tiles must have at least 1 pixel, not {self.size}")
        if not 0 <= self.overlap < self.size:
            raise UserError(
                f"the overlap of tiles of {self.size} pixels must be 0 to {self.size - 1}, not {self.overlap}"
            )

    def views(self, height: int, width: int) -> list[View]:
        """The whole image, then its tiles; the image alone if one tile holds it."""
        whole = View(0, 0, width, height)
        if max(height, width) <= self.size:
            return [whole]
        tiles = [
            View(left, top, min(left + self.size, width), min(top + self.size, height))
            for top in self._starts(height)
            for left in self._starts(width)
        ]
        return [whole, *tiles]

    def _starts(self, length: int) -> Iterator[int]:
        """First pixels of the tiles along a side, evenly spaced, so that all tiles have the same size."""
        last = max(length - self.size, 0)
        steps = -(-last // (self.size - self.overlap))
        return (round(last * k / steps) if steps else 0 for k in range(steps + 1))


def join(views: Sequence[View], found: Sequence[Instances], height: int, width: int) -> Instances:
    """The detections of an image from those of its views.

    Args:
        views: the rectangles of ``Tiling.views``.
        found: detections of each, in its own pixels, with ``pred_boxes``, ``scores`` and ``pred_classes``.
        height, width: of the image.

    Returns:
        detections in pixels of the image, best first.
    """
    boxes, scores, classes, numbers = [], [], [], []
    for number, (view, instances) in enumerate(zip(views, found, strict=True)):
        moved = instances.pred_boxes.tensor + torch.tensor([view.left, view.top] * 2)
        is_complete = ~_is_cut(moved, view, height, width)
        boxes.append(moved[is_complete])
        scores.append(instances.scores[is_complete])
        classes.append(instances.pred_classes[is_complete])
        numbers.append(torch.full((len(boxes[-1]),), number))
    order = torch.cat(scores).argsort(descending=True, stable=True)
    joined = Instances((height, width))
    joined.pred_boxes = Boxes(torch.cat(boxes)[order])
    joined.scores = torch.cat(scores)[order]
    joined.pred_classes = torch.cat(classes)[order]
    return joined[_first_of_each_object(joined, torch.cat(numbers)[order])]


def _is_cut(boxes: Tensor, view: View, height: int, width: int) -> Tensor:
    """Whether boxes [n, 4] in pixels of the image touch an edge of the view that is not an edge of the image: [n]."""
    x0, y0, x1, y1 = boxes.unbind(1)
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    if view.left > 0:
        cut |= x0 < view.left + TOUCHING
    if view.top > 0:
        cut |= y0 < view.top + TOUCHING
    if view.right < width:
        cut |= x1 > view.right - TOUCHING
    if view.bottom < height:
        cut |= y1 > view.bottom - TOUCHING
    return cut


def _first_of_each_object(instances: Instances, views: Tensor) -> Tensor:
    """Which detections [n], best first, repeat no better one of another view that is kept: bool [n]."""
    boxes, classes = instances.pred_boxes.tensor.float(), instances.pred_classes
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for k in classes.unique():
        (rows,) = (classes == k).nonzero(as_tuple=True)
        for i, row in enumerate(rows[:-1]):
            if kept[row]:
                later = rows[i + 1 :]
                is_same = box_iou(boxes[row][None], boxes[later])[0] > SAME_OBJECT_IOU
                kept[later[is_same & (views[later] != views[row])]] = False
    return kept
