# SPDX-License-Identifier: Apache-2.0
"""Pictures of predictions, denoising queries and sampling points at regular intervals of a training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dino_d2.detectron2.data import MetadataCatalog
from dino_d2.detectron2.engine import HookBase
from dino_d2.errors import UserError
from dino_d2.meta_arch import DETR
from dino_d2.visualize import panel_of_denoising, panel_of_predictions, panel_of_sampling_points
from dino_d2.visualize.denoising import check_denoising
from dino_d2.visualize.predictions import pick, save
from dino_d2.visualize.sampling import deformable_attentions

from .random_state import preserved_random_state

KINDS = ("predictions", "denoising", "sampling_points")


class Panels(HookBase):
    """Writes panels to ``{folder}/{kind}_{iteration}.png`` and to TensorBoard, without changing the training.

    Register it before the writers, on rank 0 only.

    Args:
        model: the evaluated model, not wrapped for distributed training; the averaged one if there is an average.
        dataset: a registered name; the same images, spread evenly over it, are shown each time.
        mapper: dataset dict to model input, that of the test loader.
        folder: for the PNGs.
        period: iterations between panels.
        num_images: shown in "predictions". The others show the first of them that has an object.
        show: what to draw, of `KINDS`.
        query: index of the query for sampling points; None: the query of the best detection.

    Raises:
        UserError: an unknown kind, or one that the model does not support.
    """

    def __init__(
        self,
        model: DETR,
        dataset: str,
        mapper: Any,
        folder: Path,
        period: int,
        num_images: int = 4,
        show: Sequence[str] = ("predictions",),
        query: int | None = None,
    ):
        unknown = [kind for kind in show if kind not in KINDS]
        if unknown:
            raise UserError(f"train.panels.show has {', '.join(unknown)}; there are {', '.join(KINDS)}")
        if "denoising" in show:
            check_denoising(model)
        if "sampling_points" in show:
            deformable_attentions(model)
        self.model, self.mapper, self.folder, self.period = model, mapper, Path(folder), period
        self.show, self.query = show, query
        self.names = MetadataCatalog.get(dataset).thing_classes
        self.images = pick(dataset, num_images)
        self.example = next((one for one in self.images if one["annotations"]), self.images[0])

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if (iteration + 1) % self.period == 0:
            with preserved_random_state():
                for kind in self.show:
                    panel = self.draw(kind)
                    save(panel, self.folder / f"{kind}_{iteration:07d}.png")
                    self.trainer.storage.put_image(f"panels/{kind}", np.asarray(panel).transpose(2, 0, 1))

    def draw(self, kind: str) -> Image.Image:
        """The panel for the current weights."""
        if kind == "predictions":
            return panel_of_predictions(self.model, self.images, self.mapper, self.names)
        mapped, image_format = self.mapper(self.example), self.mapper.image_format
        if kind == "denoising":
            return panel_of_denoising(self.model, mapped, image_format, self.names)
        return panel_of_sampling_points(self.model, mapped, image_format, self.names, self.query)
