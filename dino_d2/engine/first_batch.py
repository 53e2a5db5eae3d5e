# SPDX-License-Identifier: Apache-2.0
"""A picture of the first training batch."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from dino_d2.detectron2.engine import HookBase
from dino_d2.visualize import sheet_of_batch
from dino_d2.visualize.predictions import save

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger("dino_d2")

#: Maximum number of images in the picture.
_MOST_IMAGES = 16


class PictureOfFirstBatch(HookBase):
    """Draws the first batch of a run, on rank 0: augmented images with their ground truth, as the model is given them.

    A resumed run draws nothing, nor does one whose data mapper gives other images than those of Detectron2's mappers.

    Args:
        path: of the PNG.
        image_format: colour order of the data mapper, "RGB" or "BGR".
        class_names: the name of class k at index k; None shows the indices.
    """

    def __init__(self, path: Path, image_format: str, class_names: Sequence[str] | None):
        self.path, self.image_format, self.class_names = path, image_format, class_names

    def after_step(self) -> None:
        trainer = cast("Trainer", self.trainer)
        batch = trainer.first_batch[:_MOST_IMAGES]
        if trainer.iter == 0 and all(map(_is_drawable, batch)):
            save(sheet_of_batch(batch, self.image_format, self.class_names), self.path)
            logger.info("The first batch, as the model was given it: %s", self.path)


def _is_drawable(mapped: Any) -> bool:
    image = mapped.get("image") if isinstance(mapped, dict) else None
    return isinstance(image, Tensor) and image.dtype == torch.uint8 and image.dim() == 3 and len(image) == 3
