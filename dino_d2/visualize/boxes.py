"""Boxes with their labels on an image of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from .style import TILE, Colour, colour_of, font, letter_height, line_width, readable_on

_CROWDED = 12  # boxes; in a fuller picture a label must not be larger than its box


@dataclass(frozen=True)
class LabelledBox:
    """A box to draw: absolute xyxy in pixels of the original image, its class, its words, dashed or not."""

    box: tuple[float, float, float, float]
    class_index: int
    label: str
    dashed: bool = False


def draw_boxes(image: Image.Image, boxes: Sequence[LabelledBox], longer_side: int | None = None) -> Image.Image:
    """The image with boxes and their labels; lines and letters grow with it.

    Earlier boxes are the more important ones: their labels get the better places. A label without a free
    place is left out, and so is one that would cover its small box in a picture with many boxes; the colour
    of the box still tells the class.

    Args:
        image: of any size and mode.
        boxes: in pixels of `image`.
        longer_side: the length in pixels to which the longer side is scaled. Not given, the image keeps its size,
            but a small one is enlarged until its longer side has 480 pixels.

    Returns:
        an RGB image; `image` stays as it is.
    """
    scale = (longer_side or max(TILE, *image.size)) / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    canvas = image.convert("RGB")
    if size != image.size:
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    pen, width, letters = ImageDraw.Draw(canvas), line_width(size), font(letter_height(size))
    scaled = [(box, tuple(scale * value for value in box.box)) for box in boxes]
    for box, corners in sorted(scaled, key=lambda pair: -_area(pair[1])):  # small ones on top
        draw_rectangle(pen, corners, colour_of(box.class_index), box.dashed, width)
    taken: list[tuple] = []
    for box, corners in scaled:
        if not box.label:
            continue
        label_size = _label_size(pen, box.label, letters)
        if len(boxes) > _CROWDED and _area(corners) < label_size[0] * label_size[1]:
            continue
        place = _free_place(corners, label_size, size, taken)
        if place is not None:
            _draw_label(pen, place, box.label, colour_of(box.class_index), letters)
            taken.append(place)
    return canvas


def draw_rectangle(pen: ImageDraw.ImageDraw, corners: tuple, colour: Colour, dashed: bool, width: int) -> None:
    """A line of `width` pixels around xyxy `corners`, with a dark rim that keeps it visible on any ground."""
    x0, y0, x1, y1 = corners
    path = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    pieces = [piece for start, end in pairwise(path) for piece in _dashes(start, end, dashed, 3.0 * width)]
    for piece in pieces:
        pen.line(piece, fill=(0, 0, 0), width=width + 2 * max(1, width // 4))
    for piece in pieces:
        pen.line(piece, fill=colour, width=width)


def _area(corners: tuple) -> float:
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def _dashes(start: tuple, end: tuple, dashed: bool, length: float) -> list[list[tuple]]:
    """The line from start to end, whole, or every other piece of it."""
    if not dashed:
        return [[start, end]]
    start, end = np.array(start), np.array(end)
    marks = np.linspace(start, end, 2 * max(1, round(np.linalg.norm(end - start) / (2 * length))) + 1)
    return [[tuple(a), tuple(b)] for a, b in zip(marks[::2], marks[1::2], strict=False)]


def _label_size(pen: ImageDraw.ImageDraw, label: str, letters) -> tuple[float, float]:
    """(width, height) of a label with its margin; the height is the same for all words."""
    margin = letters.size / 4
    return pen.textlength(label, font=letters) + 2 * margin, sum(letters.getmetrics()) + margin / 2


def _draw_label(pen: ImageDraw.ImageDraw, place: tuple, label: str, colour: Colour, letters) -> None:
    pen.rectangle(place, fill=colour)
    pen.text((place[0] + letters.size / 4, place[1]), label, fill=readable_on(colour), font=letters)


def _free_place(corners: tuple, label: tuple, size: tuple, taken: list[tuple]) -> tuple | None:
    """A rectangle for a label (width, height) at the box, inside the image (width, height), on no other label."""
    x0, y0, x1, y1 = corners
    width, height = label
    for x in (x0, x1 - width):
        for y in (y0 - height, y0, y1 - height, y1):
            left = min(max(x, 0), size[0] - width - 1)
            top = min(max(y, 0), size[1] - height - 1)
            place = (left, top, left + width, top + height)
            if not any(_overlap(place, other) for other in taken):
                return place
    return None


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
