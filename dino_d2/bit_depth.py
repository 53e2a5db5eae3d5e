# SPDX-License-Identifier: Apache-2.0
"""Conversion of images with more than 8 bits per channel to 8 bits, for datasets and the embedded engine."""

import numpy as np
from PIL import Image

from dino_d2.errors import UserError


class PictureError(UserError):
    """An image cannot be read. The message states the reason; the caller adds the file and the image id."""


def is_deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits per channel."""
    return image.mode == "F" or image.mode.startswith("I")


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale an image with 16-bit, 32-bit or floating-point values to 8 bits; Pillow would clip them at 255.

    Values within 0..255 are kept. Floating-point values within 0..1 are multiplied by 255. All others are scaled
    linearly from the smallest (0) to the largest value (255), and so are fractions whose largest is slightly above 1
    (at most 2), which would otherwise become black. NaN and infinities become the smallest finite value.

    Raises:
        PictureError: no value is finite.
    """
    if not is_deep(image):
        return image
    values = np.asarray(image).astype(np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        raise PictureError("none of its values is a finite number")
    low, high = values[finite].min(), values[finite].max()
    values = np.where(finite, values, low)
    if image.mode == "F" and low >= 0 and high <= 1:
        values = (values * 255).round()
    elif low < 0 or high > 255 or (high <= 2 and (values != values.round()).any()):
        values = ((values - low) * (255 / (high - low))).round() if high > low else np.zeros_like(values)
    return Image.fromarray(values.astype(np.uint8))
