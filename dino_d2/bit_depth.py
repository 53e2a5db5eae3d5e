# SPDX-License-Identifier: Apache-2.0
"""Pictures of more than 8 bits a channel become 8-bit pictures by one rule: for datasets and the embedded engine."""

import numpy as np
from PIL import Image

from dino_d2.errors import UserError


class PictureError(UserError):
    """A picture that cannot be read; the message says why, and the caller says which file and which image id."""


def is_deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits a channel."""
    return image.mode == "F" or image.mode.startswith("I")


def eight_bits(image: Image.Image) -> Image.Image:
    """Scale a picture of 16-bit, 32-bit or floating-point values to 8 bits; Pillow alone would clip them at 255.

    Values that fit 0..255 already stay. Floating-point values within 0..1 are multiplied by 255. All others are scaled
    linearly, the smallest to 0 and the largest to 255; among them are fractions of which the largest is a little above
    1 (at most 2), which would become black otherwise. NaN and infinities become the smallest finite value.

    Raises:
        PictureError: none of its values is finite.
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
