# SPDX-License-Identifier: Apache-2.0
"""Converts folders with labels in other formats to COCO json, the format that this project reads.

    python -m dino_d2.data.convert FOLDER

`voc` and `yolo` read their format into an :class:`~dino_d2.data.convert.dataset.Dataset`; `dataset` splits it where it
is not split yet and writes it.
"""

from .dataset import AnnotatedImage, Box, Dataset

__all__ = ["AnnotatedImage", "Box", "Dataset"]
