# SPDX-License-Identifier: Apache-2.0
"""``Predictor``: detection with trained models in scripts.

from dino_d2 import Predictor

predictor = Predictor("configs/dino/dino_r50_4scale_12ep.py", "model_final.pth")
instances = predictor("photo.jpg")
"""

import logging
import os
from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dino_d2.checkpoint.score_thresholds import read_score_thresholds
from dino_d2.data.pixels import AnyImage, ColourOrder, pixels
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.structures import Instances
from dino_d2.errors import UserError
from dino_d2.meta_arch import DETR
from dino_d2.speed.inference import for_inference

from .filters import Filters
from .recipe import categories_of_recipe, load_recipe
from .tiles import Tiling, join
from .weights import (
    adopt_class_count,
    best_thresholds,
    categories_of_checkpoint,
    fill,
    local_file,
    move_to_device,
    read_weights,
)

logger = logging.getLogger(__name__)

#: Values of ``score_threshold`` that the checkpoint knows.
BEST = ("best", "best_per_class")

#: Values of ``precision``.
PRECISIONS: dict[str | None, torch.dtype | None] = {None: None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Predictor:
    """A trained model that detects objects in images of any form, with the results of the recipe's evaluation.

    Images are preprocessed as those of the recipe's test set: same colour order, resize and normalisation. Neither the
    recipe's dataset nor the published weights of its backbone are needed, and nothing is written to disk.

    Args:
        config_file: a recipe of configs/, or the config.yaml of a run.
        weights: a checkpoint of this project or a published one (docs/model_zoo.md); a local path or any address that
            ``train.init_checkpoint`` accepts, such as https://...
        overrides: changes to the config as on the command line of train_net.py, ``path.to.key=value``.
        device: for example "cuda:1"; the default is CUDA if available, else the CPU.
        precision: "bfloat16", or "float16" on a GPU, for detection in half the time or less (docs/performance.md);
            None for float32.
        score_threshold: detections with a lower score are left out of the result; in [0, 1], None to keep all. "best"
            is the threshold of the highest F1 that `dino_d2 report --store-threshold` has stored in the checkpoint, and
            "best_per_class" the one of each class (docs/evaluation.md).
        nms_iou: of two detections of one class with a higher IoU, only the better one is kept; in [0, 1], None for no
            suppression (see ``dino_d2.predict.filters``).
        tiling: for images much larger than the objects in them: the model runs on overlapping tiles of
            each image in addition to the full image (see ``dino_d2.predict.tiles``), one view at a time; None: only on
            the full image.

    Attributes:
        model: in evaluation mode and prepared for detection (``for_inference``). Gradients by its input are right; to
            train, compile or export, build the model from the recipe instead.
        categories: [{"id", "name"}] with the category ids of the training data, in the order of the model's classes.
            They come from the checkpoint, else from the run's config.yaml or the annotations of the recipe's test set;
            otherwise the names are numbers.
        class_names: their names.
        score_thresholds: the thresholds that are stored in the checkpoint, or None.
        mapper: the data mapper of the recipe's test set.

    Raises:
        UserError: a file is missing or is not a recipe, the weights belong to another model, the device cannot be
            used, the precision is unknown, a filter's value is outside [0, 1], or the checkpoint has no best threshold.
    """

    def __init__(
        self,
        config_file: str | os.PathLike,
        weights: str | os.PathLike,
        overrides: Sequence[str] = (),
        device: str | None = None,
        precision: Literal["bfloat16", "float16"] | None = None,
        score_threshold: float | Literal["best", "best_per_class"] | None = None,
        nms_iou: float | None = None,
        tiling: Tiling | None = None,
    ):
        if precision not in list(PRECISIONS):  # not every value can be hashed
            raise UserError(f'precision must be "bfloat16", "float16" or None (float32), not {precision!r}')
        if isinstance(score_threshold, str) and score_threshold not in BEST:
            raise UserError(f"score_threshold must be a number in [0, 1], {' or '.join(BEST)}, not {score_threshold!r}")
        self._filters = Filters(None if isinstance(score_threshold, str) else score_threshold, nms_iou)
        self._tiling = tiling
        lazy = load_recipe(str(config_file), overrides)
        weights = local_file(str(weights))
        tensors = read_weights(weights)
        count = adopt_class_count(lazy, tensors)
        self.model: DETR = instantiate(lazy.model).eval()
        fill(self.model, tensors, weights, str(config_file))
        self.model = move_to_device(self.model, device)
        self.model = for_inference(self.model, PRECISIONS[precision])
        self.mapper = instantiate(lazy.dataloader.test.mapper)
        self.categories = categories_of_checkpoint(weights, count) or categories_of_recipe(lazy, count)
        self.class_names = [category["name"] for category in self.categories]
        self.score_thresholds = read_score_thresholds(weights)
        if isinstance(score_threshold, str):
            stored = best_thresholds(self.score_thresholds, weights)
            of_classes = tuple(stored.of(self.class_names))
            self._filters = Filters(stored.overall if score_threshold == "best" else of_classes, nms_iou)
        self._lazy = lazy
        self._warned_of_colour_order = False

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a Sequence as well
        self, images: str | os.PathLike | Image.Image, colour_order: ColourOrder | None = None
    ) -> Instances: ...
    @overload
    def __call__(self, images: Sequence[AnyImage], colour_order: ColourOrder | None = None) -> list[Instances]: ...
    @overload
    def __call__(
        self, images: np.ndarray | Tensor, colour_order: ColourOrder | None = None
    ) -> Instances | list[Instances]: ...
    def __call__(
        self, images: AnyImage | Sequence[AnyImage], colour_order: ColourOrder | None = None
    ) -> Instances | list[Instances]:
        """Detect objects.

        Args:
            images: a path, a Pillow image, an array [H, W, 3] or a tensor [3, H, W] (both uint8, 0..255); or several
                in a sequence, an array [B, H, W, 3] or a tensor [B, 3, H, W]. Images of equal size are processed as
                one batch, which changes an image's detections by rounding only.
            colour_order: "RGB" or "BGR", of arrays and tensors; files and Pillow images state theirs. The default is
                BGR, the order of OpenCV and of `DefaultPredictor`; the log warns once that it was assumed.

        Returns:
            ``Instances`` on the CPU, best first, with ``pred_boxes`` (xyxy in pixels of the image), ``scores`` and
            ``pred_classes``; for several images a list of them.

        Raises:
            UserError: an image cannot be read, or has another shape or type.
        """
        if colour_order not in (None, "RGB", "BGR"):
            raise UserError(f'colour_order must be "RGB" or "BGR", not {colour_order!r}')
        batch, is_single = _batch_of(images)
        if colour_order is None and any(isinstance(image, np.ndarray | Tensor) for image in batch):
            colour_order = "BGR"
            if not self._warned_of_colour_order:
                logger.warning('Arrays and tensors are assumed to be BGR; pass colour_order="RGB" (or "BGR").')
                self._warned_of_colour_order = True
        arrays = (pixels(image, self.mapper.image_format, colour_order or "BGR") for image in batch)
        found = self._detect(list(arrays)) if self._tiling is None else [self._detect_in_tiles(a) for a in arrays]
        found = [self._filters(instances) for instances in found]
        return found[0] if is_single else found

    def test_set(self) -> str:
        """Register the recipe's test set and return its name in the catalogs.

        Raises:
            DatasetError: the dataset is not on this machine.
        """
        names = self._lazy.dataloader.test.dataset.names
        return names if isinstance(names, str) else instantiate(names)

    def _detect(self, arrays: list[np.ndarray]) -> list[Instances]:
        """All detections in images uint8 [H, W, 3] of the recipe's colour order."""
        with torch.no_grad():
            outputs = self.model([self._input(array) for array in arrays])
        return [output["instances"].to("cpu") for output in outputs]

    def _detect_in_tiles(self, array: np.ndarray) -> Instances:
        """The detections of an image uint8 [H, W, 3] from those of its tiles."""
        assert self._tiling is not None
        height, width = array.shape[:2]
        views = self._tiling.views(height, width)
        above = Filters(self._filters.score_threshold)  # a weak box never removes a better one; fewer are faster
        found = [above(self._detect([array[v.top : v.bottom, v.left : v.right]])[0]) for v in views]
        return found[0] if len(views) == 1 else join(views, found, height, width)

    def _input(self, array: np.ndarray) -> dict:
        """The model's input for one image, as the test loader would return it."""
        height, width = array.shape[:2]
        augmented = T.AugInput(array)
        self.mapper.augmentations(augmented)
        chw = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        return {"image": torch.from_numpy(chw), "height": height, "width": width}


def _batch_of(images: AnyImage | Sequence[AnyImage]) -> tuple[list[AnyImage], bool]:
    """The images of a sequence or a batch, and False; a single image in a list, and True."""
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images), False
    if isinstance(images, str | bytes | os.PathLike | Image.Image | np.ndarray | Tensor) or not isinstance(
        images, Sequence
    ):
        return [images], True
    return list(images), False
