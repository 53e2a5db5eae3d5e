# SPDX-License-Identifier: Apache-2.0
"""Boxes with their labels on an image of any size."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .style import TILE, Colour, colour_of, font, letter_height, line_width, readable_on

#: In an image with more boxes than this, labels larger than their box are left out.
_CROWDED = 12


@dataclass(frozen=True)
class LabelledBox:
    """A box to draw.

    Attributes:
        box: absolute xyxy in pixels of the original image.
        class_index: decides the colour.
        label: text at the box; "" for none.
        dashed: draw a dashed line.
        colour: instead of that of the class.
        outlined: draw the box; otherwise it is only the place of the label.
    """

    box: tuple[float, float, float, float]
    class_index: int
    label: str
    dashed: bool = False
    colour: Colour | None = None
    outlined: bool = True


def draw_boxes(
    image: Image.Image, boxes: Sequence[LabelledBox], longer_side: int | None = None, letter_scale: float = 1
) -> Image.Image:
    """Draw boxes and their labels on an image; line width and font size grow with the image.

    Labels are placed in the order of the boxes. A label is left out if there is no free place for it, or if it would
    cover a small box in an image with many boxes; the colour of the box still shows the class.

    Args:
        image: of any size and mode.
        boxes: in pixels of `image`.
        longer_side: length of the longer side of the result, in pixels. By default the size of the image, or 480 for
            images smaller than that.
        letter_scale: font scale of the labels, relative to the default for the size of the image.

    Returns:
        a new RGB image.
    """
    scale = (longer_side or max(TILE, *image.size)) / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = image.convert("RGB")
    if size != image.size:
        canvas = canvas.resize(size, Image.Resampling.BICUBIC)
    pen, width, letters = (
        ImageDraw.Draw(canvas),
        line_width(size),
        font(max(1, round(letter_scale * letter_height(size)))),
    )
    scaled = [(box, tuple(scale * value for value in box.box)) for box in boxes]
    for box, corners in sorted(scaled, key=lambda pair: -_area(pair[1])):  # small ones on top
        if box.outlined:
            draw_rectangle(pen, corners, _colour(box), box.dashed, width)
    taken: list[tuple] = []
    for box, corners in scaled:
        if not box.label:
            continue
        label_size = _label_size(pen, box.label, letters)
        if len(boxes) > _CROWDED and _area(corners) < label_size[0] * label_size[1]:
            continue
        place = _free_place(corners, label_size, size, taken)
        if place is not None:
            _draw_label(pen, place, box.label, _colour(box), letters)
            taken.append(place)
    return canvas


def draw_rectangle(pen: ImageDraw.ImageDraw, corners: tuple, colour: Colour, dashed: bool, width: int) -> None:
    """Draw a line of `width` pixels around `corners` (xyxy), with a dark outline for contrast with any background."""
    x0, y0, x1, y1 = corners
    path = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    pieces = [piece for start, end in pairwise(path) for piece in _dashes(start, end, dashed, 3.0 * width)]
    for piece in pieces:
        pen.line(piece, fill=(0, 0, 0), width=width + 2 * max(1, width // 4))
    for piece in pieces:
        pen.line(piece, fill=colour, width=width)


def _colour(box: LabelledBox) -> Colour:
    return colour_of(box.class_index) if box.colour is None else box.colour


def _area(corners: tuple) -> float:
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def _dashes(start: tuple, end: tuple, dashed: bool, length: float) -> list[list[tuple]]:
    """Segments of the line from start to end: one for a solid line, every second one for a dashed line."""
    if not dashed:
        return [[start, end]]
    a, b = np.array(start), np.array(end)
    marks = np.linspace(a, b, 2 * max(1, round(np.linalg.norm(b - a) / (2 * length))) + 1)
    return [[tuple(a), tuple(b)] for a, b in zip(marks[::2], marks[1::2], strict=False)]


def _label_size(pen: ImageDraw.ImageDraw, label: str, letters: ImageFont.FreeTypeFont) -> tuple[float, float]:
    """(width, height) of a label with its margin; the height does not depend on the text."""
    margin = letters.size / 4
    return pen.textlength(label, font=letters) + 2 * margin, sum(letters.getmetrics()) + margin / 2


def _draw_label(
    pen: ImageDraw.ImageDraw, place: tuple, label: str, colour: Colour, letters: ImageFont.FreeTypeFont
) -> None:
    pen.rectangle(place, fill=colour)
    pen.text((place[0] + letters.size / 4, place[1]), label, fill=readable_on(colour), font=letters)


def _free_place(corners: tuple, label: tuple, size: tuple, taken: list[tuple]) -> tuple | None:
    """A rectangle for a label at its box: inside the image and free of other labels; None if there is none.

    Args:
        corners: xyxy of the box.
        label, size: (width, height) of the label and of the image.
        taken: xyxy of the labels that are already placed.
    """
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
