# SPDX-License-Identifier: Apache-2.0
"""Pictures of mistakes: ground truth beside detections, of an image or the part of it around a mistake."""

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from .boxes import LabelledBox, draw_boxes
from .style import TILE

#: A part shows a mistake in a square of this many times its longer side, and at least this share of the image.
_MARGIN, _LEAST = 3.0, 0.25


def beside(
    image: Image.Image,
    truth: Sequence[LabelledBox],
    detections: Sequence[LabelledBox],
    around: tuple[float, float, float, float] | None = None,
) -> tuple[Image.Image, Image.Image]:
    """The same part of an image twice, with the ground truth and with the detections.

    Args:
        image: RGB.
        truth, detections: boxes in pixels of the image.
        around: xyxy of the mistake that the part shows; None for the whole image.

    Returns:
        two pictures whose longer side has 480 pixels.
    """
    part = (0, 0, *image.size) if around is None else _part(around, image.size)
    shown = image.crop(part)
    left, right = (
        draw_boxes(
            shown, [_moved(box, part) for box in boxes if _overlaps(box, part)], longer_side=TILE, letter_scale=1.3
        )
        for boxes in (truth, detections)
    )
    return left, right


def _part(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """xyxy of a square around a box, moved and cut to fit into the image."""
    side = max(_MARGIN * max(box[2] - box[0], box[3] - box[1]), _LEAST * max(size), 1)
    corners = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        start = min(max((low + high - side) / 2, 0), max(length - side, 0))
        corners.append((round(start), min(round(start + side), length)))
    (left, right), (top, bottom) = corners
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _overlaps(box: LabelledBox, part: tuple[int, int, int, int]) -> bool:
    x0, y0, x1, y1 = box.box
    return x0 < part[2] and part[0] < x1 and y0 < part[3] and part[1] < y1


def _moved(box: LabelledBox, part: tuple[int, int, int, int]) -> LabelledBox:
    """A box in pixels of the part; what lies beyond its edges is not drawn."""
    x0, y0, x1, y1 = box.box
    left, top = part[:2]
    return replace(box, box=(x0 - left, y0 - top, x1 - left, y1 - top))
