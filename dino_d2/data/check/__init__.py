# SPDX-License-Identifier: Apache-2.0
"""Checks of a COCO detection dataset that report each fault of the json and the image folder with its place.

    python -m dino_d2.data.check JSON IMAGES

`structure` reads the json, `fields` brings its fields to one type, `findings` examines boxes, classes and images, and
`splits` compares training with validation.
"""

from .fields import DatasetError, Finding, Normalised, first, normalise
from .findings import BadImages, check, read_without_bad_images, table
from .structure import load, parse, read_coco, read_normalised

__all__ = [
    "BadImages",
    "DatasetError",
    "Finding",
    "Normalised",
    "check",
    "first",
    "load",
    "normalise",
    "parse",
    "read_coco",
    "read_normalised",
    "read_without_bad_images",
    "table",
]
