# SPDX-License-Identifier: Apache-2.0
"""Colours and fonts of all pictures."""

import colorsys
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import ImageFont

Colour = tuple[int, int, int]

TILE = 480  # pixels: longer side of an image in a panel, and the least of any drawn image, so that labels are readable
PAPER, INK = (255, 255, 255), (40, 40, 40)


def colour_of(class_index: int) -> Colour:
    """Colour of a class. Hues of consecutive classes differ by the golden ratio of the colour circle."""
    hue = (0.02 + class_index * 0.6180339887) % 1
    value = (1.0, 0.85)[class_index // 8 % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.8, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def readable_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read on the colour."""
    lightness = np.dot(colour, (0.299, 0.587, 0.114))
    return (0, 0, 0) if lightness > 140 else (255, 255, 255)


def line_width(size: tuple[int, int]) -> int:
    """Width of lines in pixels, for an image of this (width, height)."""
    return max(3, round((size[0] * size[1]) ** 0.5 / 200))


def letter_height(size: tuple[int, int]) -> int:
    """Font size in pixels, for an image of this (width, height)."""
    return max(12, round((size[0] * size[1]) ** 0.5 / 45))


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib contains; it covers class names beyond ASCII."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
