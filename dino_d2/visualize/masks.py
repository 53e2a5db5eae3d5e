# SPDX-License-Identifier: Apache-2.0
"""Masks on an image."""

import numpy as np
from PIL import Image

from .style import Colour


def draw_mask(image: Image.Image, mask: np.ndarray, colour: Colour, opacity: float = 0.5) -> Image.Image:
    """Colour the pixels of a mask.

    Args:
        image: of any size and mode.
        mask: bool or 0 and 1, `[H, W]`, of any size: it is stretched over the image.
        opacity: in [0, 1].

    Returns:
        a new RGB image.
    """
    pixels = np.array(image.convert("RGB"))
    stretched = Image.fromarray(np.asarray(mask, dtype=np.uint8)).resize(image.size, Image.Resampling.NEAREST)
    inside = np.asarray(stretched) > 0
    pixels[inside] = ((1 - opacity) * pixels[inside] + opacity * np.array(colour)).round()
    return Image.fromarray(pixels)
