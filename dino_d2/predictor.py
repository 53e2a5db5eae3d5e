# SPDX-License-Identifier: Apache-2.0
"""Detection with trained models: ``Predictor`` for scripts, and a config for Detectron2's own ``DefaultPredictor``.

from dino_d2.predictor import Predictor

predictor = Predictor("configs/dino/dino_r50_4scale_12ep.py", "model_final.pth")
instances = predictor("photo.jpg")

from dino_d2.detectron2.engine import DefaultPredictor
from dino_d2.predictor import predictor_cfg

predictor = DefaultPredictor(predictor_cfg("configs/dino/dino_r50_4scale_12ep.py", "model_final.pth"))
instances = predictor(image)["instances"]  # image: uint8 [H, W, 3] in BGR order, as OpenCV reads it
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar, overload

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor, nn

from dino_d2.checkpoint import load_tensors
from dino_d2.checkpoint.classes import num_classes
from dino_d2.checkpoint.files import read_categories, read_tensors
from dino_d2.checkpoint.score_thresholds import ScoreThresholds, read_score_thresholds
from dino_d2.data.category_lookup import look_up_categories
from dino_d2.data.coco_format import metadata_of
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.pixels import AnyImage, ColourOrder, pixels
from dino_d2.detectron2.config import CfgNode, get_cfg, instantiate
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.modeling import META_ARCH_REGISTRY
from dino_d2.detectron2.structures import Instances
from dino_d2.detectron2.utils.file_io import PathManager
from dino_d2.engine.config import disable_pretrained_weights, read_config
from dino_d2.errors import UserError
from dino_d2.meta_arch import DETR
from dino_d2.modeling.queries.content import UnknownLabelEmbedding
from dino_d2.predict.filters import Filters
from dino_d2.predict.tiles import Tiling, join
from dino_d2.recipes import find_config
from dino_d2.speed.inference import for_inference

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)

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
        tiling: for images much larger than the objects in them: each image is detected in overlapping tiles as well as
            as a whole (see ``dino_d2.predict.tiles``), one view at a time; None for the whole image only.

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
        lazy = _load(str(config_file), overrides)
        weights = _local_file(str(weights))
        tensors = _read(weights)
        count = num_classes({name.removeprefix("detector."): tensor for name, tensor in tensors.items()})
        if count and not isinstance(lazy.model.detector.num_classes, int):
            lazy.model.detector.num_classes = count  # instead of counting the classes of the recipe's dataset
        self.model: DETR = instantiate(lazy.model).eval()
        _fill(self.model, tensors, weights, str(config_file))
        self.model = _move(self.model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = for_inference(self.model, PRECISIONS[precision])
        self.mapper = instantiate(lazy.dataloader.test.mapper)
        self.categories = read_categories(weights) or _categories_of_recipe(lazy, count)
        self.class_names = [category["name"] for category in self.categories]
        self.score_thresholds = read_score_thresholds(weights)
        if isinstance(score_threshold, str):
            stored = best_threshold(self.score_thresholds, weights)
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
        """The model's input for one image, as the test loader would give it."""
        height, width = array.shape[:2]
        augmented = T.AugInput(array)
        self.mapper.augmentations(augmented)
        chw = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        return {"image": torch.from_numpy(chw), "height": height, "width": width}


def _batch_of(images: AnyImage | Sequence[AnyImage]) -> tuple[list[AnyImage], bool]:
    """The images of a sequence or a batch, and False; a single image in a list, and True."""
    if isinstance(images, np.ndarray | Tensor) and images.ndim == 4:
        return list(images), False
    if isinstance(images, str | os.PathLike | Image.Image | np.ndarray | Tensor) or not isinstance(images, Sequence):
        return [images], True
    return list(images), False


def predictor_cfg(config_file: str | os.PathLike, weights: str | os.PathLike, overrides: Sequence[str] = ()) -> CfgNode:
    """The yacs config with which ``DefaultPredictor`` builds a recipe's model and preprocesses images as its test set.

    ``MODEL.DEVICE`` is CUDA if available, else the CPU. ``DATASETS.TEST`` names an entry of the ``MetadataCatalog``
    with the class names of the recipe's test set, which the predictor has as ``predictor.metadata``; it is empty if
    the names are not known. They are read from the run's config.yaml or from the annotations, without registering the
    dataset or looking at its images. If the dataset is not on this machine, use the config.yaml of the run, or a
    dataset that is in the catalog: ``dataloader.test.dataset.names=my_set``.

    Args:
        config_file: a recipe of configs/, or the config.yaml of a run.
        weights: a checkpoint; the backbone's published weights are not downloaded.
        overrides: changes to the config as on the command line of train_net.py, ``path.to.key=value``.

    Raises:
        UserError: the config file is not a recipe.
        ValueError: the recipe's test mapper does more to an image than resize its shorter side.
    """
    lazy = _load(str(config_file), overrides)
    mapper = instantiate(lazy.dataloader.test.mapper)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = LazyConfigModel.__name__
    cfg.MODEL.LAZY_CONFIG = RecipeNode(
        {"FILE": os.path.abspath(find_config(config_file)), "OVERRIDES": list(overrides)}
    )
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.DATASETS.TEST = _names_with_metadata(lazy)
    cfg.INPUT.FORMAT = mapper.image_format
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = _test_size(mapper)
    return cfg


class RecipeNode(CfgNode):
    """The part of the yacs config that names the recipe.

    A process that unpickles it, such as the worker of an ``AsyncPredictor``, imports this module for its class, which
    registers the model.
    """


@META_ARCH_REGISTRY.register()
def LazyConfigModel(cfg: CfgNode) -> nn.Module:
    """The model of the LazyConfig file ``cfg.MODEL.LAZY_CONFIG.FILE`` with ``.OVERRIDES``, without weights."""
    return instantiate(_load(cfg.MODEL.LAZY_CONFIG.FILE, cfg.MODEL.LAZY_CONFIG.OVERRIDES).model)


def _load(config_file: str, overrides: Sequence[str]) -> DictConfig:
    """
    Raises:
        UserError: there is no such file, or it is not a recipe of a detector with a test loader.
    """
    lazy = read_config(config_file, overrides)
    for key in ("model.detector.backbone", "dataloader.test.mapper"):
        if OmegaConf.select(lazy, key) is None:
            raise UserError(
                f"{config_file} is not a recipe: it has no {key}. Give a file such as "
                "configs/dino/dino_r50_4scale_12ep.py, or the config.yaml of a run"
            )
    disable_pretrained_weights(lazy)  # all weights come from the checkpoint
    return lazy


def _names_with_metadata(lazy: DictConfig) -> tuple[str, ...]:
    """The ``MetadataCatalog`` entry with the class names of the recipe's test set; empty if they are not known."""
    names = OmegaConf.select(lazy, "dataloader.test.dataset.names")
    if isinstance(names, str) and not OmegaConf.is_list(OmegaConf.select(lazy, "data.classes")):
        return (names,)
    try:
        return (metadata_of([category["name"] for category in _recorded_categories(lazy)]),)
    except UserError as error:
        logger.warning("The predictor has no class names: %s.", error)
        return ()


def _recorded_categories(lazy: DictConfig) -> list[dict]:
    """[{"id", "name"}] from the run's config.yaml, or of the recipe's test set.

    Raises:
        UserError: neither has them.
    """
    classes = OmegaConf.select(lazy, "data.classes")
    if OmegaConf.is_list(classes):  # a run writes them into its config.yaml
        return [{"id": k, "name": name} for k, name in enumerate(classes)]
    return look_up_categories(OmegaConf.select(lazy, "dataloader.test.dataset.names"))


def _test_size(mapper: DetrDatasetMapper) -> tuple[int, int]:
    """(length of the shorter side, limit of the longer one) in pixels after the mapper; (0, 0) without a resize.

    Zero disables the resize of ``DefaultPredictor``.
    """
    augmentations = mapper.augmentations.augs
    if not augmentations:
        return 0, 0
    resize = augmentations[0]
    if len(augmentations) > 1 or not isinstance(resize, T.ResizeShortestEdge) or len(set(resize.short_edge_length)) > 1:
        raise ValueError(
            f"DefaultPredictor can resize an image's shorter side to one length and nothing else, but "
            f"dataloader.test.mapper has {augmentations}. Give it L(resize_augmentation)(short_edge_length=..., "
            "max_size=...), or use dino_d2.predictor.Predictor, which applies any mapper."
        )
    return int(resize.short_edge_length[0]), int(resize.max_size)


def _local_file(weights: str) -> str:
    """A local path of the checkpoint, after a download if ``weights`` is an address.

    Raises:
        UserError: there is no such file, or it cannot be downloaded.
    """
    if "://" not in weights and not Path(weights).is_file():
        raise UserError(f"there is no checkpoint {weights} (looked from {Path.cwd()})")
    try:
        path = PathManager.get_local_path(weights)
    except (OSError, ValueError, AssertionError) as error:  # iopath asserts that a download has succeeded
        raise UserError(f"the checkpoint {weights} cannot be downloaded: {error}") from error
    if not Path(path).is_file():
        raise UserError(f"there is no checkpoint {weights}: no known kind of address, or nothing is there")
    return path


def _read(weights: str) -> dict[str, Tensor]:
    try:
        return read_tensors(weights)
    except (ValueError, RuntimeError, EOFError) as error:  # PyTorch raises the last two for truncated files
        raise UserError(f"{weights} is not a checkpoint, or cannot be read: {error}") from error


def _fill(model: DETR, tensors: dict[str, Tensor], weights: str, config_file: str) -> None:
    """Load the weights; unlike training, detection needs every tensor.

    Raises:
        UserError: the weights belong to another model.
    """
    try:
        report = load_tensors(model, tensors, weights)
    except ValueError as error:
        raise UserError(str(error)) from error
    logger.log(logging.WARNING if report.doubtful else logging.INFO, "%s", report)
    idle = ["num_batches_tracked"]  # of batch norms, used in training only
    if not isinstance(model.detector.label_embedding, UnknownLabelEmbedding):
        idle.append("label_embedding.weight")  # used by denoising queries only
    left = [*report.remade, *report.misshapen, *(name for name in report.missing if not name.endswith(tuple(idle)))]
    if left:
        detail = report.classes or next(iter(report.misshapen.values()), "not in the checkpoint")
        raise UserError(
            f"{weights} does not fit the model of {config_file}: {len(left)} tensors would stay random, the first is "
            f"{left[0]} ({detail}). Use the config.yaml beside the weights, or override the settings that differ, such "
            "as model.detector.num_classes=3"
        )


def best_threshold(stored: ScoreThresholds | None, weights: str) -> ScoreThresholds:
    """The thresholds that are stored in a checkpoint.

    Raises:
        UserError: there are none.
    """
    if stored is None:
        raise UserError(
            f"{weights} has no best score threshold. Find and store it: dino_d2 report --config-file CONFIG --weights "
            f"{weights} --output report --store-threshold; or give a number, such as 0.3"
        )
    return stored


def _move(model: Model, device: str) -> Model:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # PyTorch raises the latter if it was built without CUDA
        raise UserError(f"device {device!r} cannot be used: {error}") from error


def _categories_of_recipe(lazy: DictConfig, count: int | None) -> list[dict]:
    """Categories of the run's config.yaml or the recipe's test set; numbers if these are not known or do not fit."""
    count = count or lazy.model.detector.num_classes
    try:
        recorded = _recorded_categories(lazy)
        if len(recorded) == count:
            return recorded
        reason = f"the recipe's test set has {len(recorded)} classes, the model {count}"
    except UserError as error:
        reason = str(error)
    logger.warning("Classes are named by numbers, because neither checkpoint nor recipe gives names: %s.", reason)
    return [{"id": k, "name": str(k)} for k in range(count)]
