"""Trained models on images: three lines for a script, and the config from which Detectron2's own predictor is made.

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
from typing import Literal

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from dino_d2.checkpoint import load_tensors
from dino_d2.checkpoint.classes import num_classes
from dino_d2.checkpoint.files import read_categories, read_tensors
from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import categories, metadata_of
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.pixels import AnyImage, ColourOrder, pixels
from dino_d2.detectron2.config import CfgNode, get_cfg, instantiate
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.modeling import META_ARCH_REGISTRY
from dino_d2.detectron2.structures import Instances
from dino_d2.engine.config import read_config
from dino_d2.errors import UserError
from dino_d2.modeling.content import UnknownLabelEmbedding
from dino_d2.modeling.inference import for_inference

logger = logging.getLogger(__name__)


class Predictor:
    """A trained model for images in any form, with the numbers that the recipe's evaluation would give.

    An image goes the way of the recipe's test set: its colour order, its resize, its normalisation. Neither the data
    of the recipe nor the published weights of its backbone are needed.

    Args:
        config_file: a recipe of configs/, or the config.yaml that a run has left.
        weights: a checkpoint of this project or a published one (docs/model_zoo.md).
        overrides: changes to the config as on the command line of train_net.py, ``path.to.key=value``.
        device: for example "cuda:1"; the default is CUDA where there is one, else the CPU.
        precision: "bfloat16", or on a GPU "float16", detects in half the time or less (docs/performance.md); None in
            float32.

    Attributes:
        model: in evaluation mode.
        categories: [{"id", "name"}] with the ids of the data the model was trained on, in the order of its classes;
            from the checkpoint, else from the config.yaml of the run or the recipe's test set, else made of numbers.
        class_names: their names.
        mapper: the data mapper of the recipe's test set.

    Raises:
        UserError: a file is missing, the weights are of another model, or the device cannot be used.
    """

    def __init__(
        self,
        config_file: str | os.PathLike,
        weights: str | os.PathLike,
        overrides: Sequence[str] = (),
        device: str | None = None,
        precision: Literal["bfloat16", "float16"] | None = None,
    ):
        for what, path in (("config file", config_file), ("checkpoint", weights)):
            if not Path(path).is_file():
                raise UserError(f"there is no {what} {path} (looked from {Path.cwd()})")
        lazy = _load(str(config_file), overrides)
        tensors = _read(str(weights))
        count = num_classes({name.removeprefix("detector."): tensor for name, tensor in tensors.items()})
        if count and not isinstance(lazy.model.detector.num_classes, int):
            lazy.model.detector.num_classes = count  # the recipe would count them in its data
        self.model = instantiate(lazy.model).eval()
        _fill(self.model, tensors, str(weights), str(config_file))
        self.model = _move(self.model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = for_inference(self.model, precision and getattr(torch, precision))
        self.mapper = instantiate(lazy.dataloader.test.mapper)
        self.categories = read_categories(str(weights)) or _categories_of_data(lazy, count)
        self.class_names = [category["name"] for category in self.categories]
        self._lazy = lazy
        self._told = False

    def __call__(
        self, images: AnyImage | Sequence[AnyImage], colour_order: ColourOrder | None = None
    ) -> Instances | list[Instances]:
        """Detect.

        Args:
            images: a path, a Pillow image, an array [H, W, 3] or a tensor [3, H, W] (both uint8, 0..255); or several
                in a sequence, an array [B, H, W, 3] or a tensor [B, 3, H, W]. Images of one size share a batch, and
                an image's detections depend on the others in rounding alone.
            colour_order: "RGB" or "BGR", of arrays and tensors; files and Pillow images know theirs. BGR is assumed
                where it is not given, as `DefaultPredictor` does and OpenCV reads, and is said once in the log.

        Returns:
            for one image ``Instances`` on the CPU, best first, with ``pred_boxes`` (xyxy in pixels of the image),
            ``scores`` and ``pred_classes``; for several a list of them.

        Raises:
            UserError: an image cannot be read or is of another form.
        """
        if colour_order not in (None, "RGB", "BGR"):
            raise UserError(f'colour_order must be "RGB" or "BGR", not {colour_order!r}')
        several = isinstance(images, Sequence) and not isinstance(images, str)
        several = several or (isinstance(images, np.ndarray | Tensor) and images.ndim == 4)
        batch = list(images) if several else [images]
        if colour_order is None and any(isinstance(image, np.ndarray | Tensor) for image in batch):
            colour_order = "BGR"
            if not self._told:
                logger.warning('Arrays and tensors are taken for BGR; say colour_order="RGB" (or "BGR") for yours.')
                self._told = True
        with torch.no_grad():
            outputs = self.model([self._input(image, colour_order) for image in batch])
        found = [output["instances"].to("cpu") for output in outputs]
        return found if several else found[0]

    def test_set(self) -> str:
        """The catalogs' name of the recipe's test set; registers it.

        Raises:
            DatasetError: it is not on this machine.
        """
        names = self._lazy.dataloader.test.dataset.names
        return names if isinstance(names, str) else instantiate(names)

    def _input(self, image: AnyImage, colour_order: ColourOrder | None) -> dict:
        """What the test loader would give the model."""
        array = pixels(image, self.mapper.image_format, colour_order or "BGR")
        height, width = array.shape[:2]
        augmented = T.AugInput(array)
        self.mapper.augmentations(augmented)
        chw = np.ascontiguousarray(augmented.image.transpose(2, 0, 1))
        return {"image": torch.from_numpy(chw), "height": height, "width": width}


def predictor_cfg(config_file: str | os.PathLike, weights: str | os.PathLike, overrides: Sequence[str] = ()) -> CfgNode:
    """The yacs config from which ``DefaultPredictor`` builds the model of a recipe and treats images as its test did.

    ``MODEL.DEVICE`` is CUDA where there is one, else the CPU. ``DATASETS.TEST`` is the recipe's test set, whose class
    names the predictor has as ``predictor.metadata``; the images of the set are not touched. Where the set is not on
    this machine, give the config.yaml of the run, which has the class names of a dataset of the user's own, or name a
    set that is in the catalog: ``dataloader.test.dataset.names=my_set``.

    Args:
        config_file: a recipe of configs/, or the config.yaml that a run has left.
        weights: a checkpoint; the backbone's published weights are not fetched.
        overrides: changes to the config as on the command line of train_net.py, ``path.to.key=value``.

    Raises:
        ValueError: the recipe's test mapper does more to an image than resize its shorter side.
    """
    lazy = _load(str(config_file), overrides)
    mapper = instantiate(lazy.dataloader.test.mapper)
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = LazyConfigModel.__name__
    cfg.MODEL.LAZY_CONFIG = CfgNode({"FILE": os.path.abspath(config_file), "OVERRIDES": list(overrides)})
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.DATASETS.TEST = (_catalog_name(lazy),)
    cfg.INPUT.FORMAT = mapper.image_format
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = _test_size(mapper)
    return cfg


@META_ARCH_REGISTRY.register()
def LazyConfigModel(cfg: CfgNode) -> nn.Module:
    """The model of the LazyConfig file ``cfg.MODEL.LAZY_CONFIG.FILE`` with ``.OVERRIDES``, without weights."""
    return instantiate(_load(cfg.MODEL.LAZY_CONFIG.FILE, cfg.MODEL.LAZY_CONFIG.OVERRIDES).model)


def _load(config_file: str, overrides: Sequence[str]) -> DictConfig:
    lazy = read_config(config_file, overrides)
    backbone = lazy.model.detector.backbone
    if "pretrained" in backbone:  # timm's; all weights come from the checkpoint
        backbone.pretrained = False
    return lazy


def _catalog_name(lazy: DictConfig) -> str:
    """Of a dataset whose metadata has the model's class names."""
    classes = OmegaConf.select(lazy, "data.classes")
    if OmegaConf.is_list(classes):  # written into config.yaml by the run
        return metadata_of(classes)
    names = lazy.dataloader.test.dataset.names
    return names if isinstance(names, str) else instantiate(names)


def _test_size(mapper: DetrDatasetMapper) -> tuple[int, int]:
    """(length of the shorter side, bound of the longer one) after the mapper, in pixels; (0, 0) if it resizes nothing.

    Zero is Detectron2's way to switch the resize of ``DefaultPredictor`` off.
    """
    augmentations = mapper.augmentations.augs
    if not augmentations:
        return 0, 0
    resize = augmentations[0]
    if len(augmentations) > 1 or not isinstance(resize, T.ResizeShortestEdge) or len(set(resize.short_edge_length)) > 1:
        raise ValueError(
            f"DefaultPredictor can resize an image's shorter side to one length and nothing else, but "
            f"dataloader.test.mapper has {augmentations}. Give it L(resize_augmentation)(short_edge_length=..., "
            "max_size=...), or call the model with the mapper's output yourself."
        )
    return int(resize.short_edge_length[0]), int(resize.max_size)


def _read(weights: str) -> dict[str, Tensor]:
    try:
        return read_tensors(weights)
    except (ValueError, RuntimeError, EOFError) as error:  # torch raises the latter two for a file that is cut off
        raise UserError(f"{weights} is no checkpoint that can be read: {error}") from error


def _fill(model: nn.Module, tensors: dict[str, Tensor], weights: str, config_file: str) -> None:
    """Fill the model; unlike a training, a prediction needs every tensor."""
    try:
        report = load_tensors(model, tensors, weights)
    except ValueError as error:
        raise UserError(str(error)) from error
    logger.log(logging.WARNING if report.doubtful else logging.INFO, "%s", report)
    idle = ["num_batches_tracked"]  # a batch norm's, which training alone reads
    if not isinstance(model.detector.label_embedding, UnknownLabelEmbedding):
        idle.append("label_embedding.weight")  # denoising queries alone read it
    left = [*report.remade, *report.misshapen, *(name for name in report.missing if not name.endswith(tuple(idle)))]
    if left:
        detail = report.classes or next(iter(report.misshapen.values()), "not in the checkpoint")
        raise UserError(
            f"{weights} does not fit the model of {config_file}: {len(left)} tensors would stay random, the first is "
            f"{left[0]} ({detail}). Give the config.yaml that the run left beside the weights, or override what "
            "differs, such as model.detector.num_classes=3"
        )


def _move(model: nn.Module, device: str) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises the latter where it was built without CUDA
        raise UserError(f"device {device!r} cannot be used: {error}") from error


def _categories_of_data(lazy: DictConfig, count: int | None) -> list[dict]:
    """From the run's config.yaml or the recipe's test set, if it is here, where it has as many classes as the model."""
    try:
        known = categories(_catalog_name(lazy))
    except (DatasetError, UserError, OmegaConfBaseException) as error:
        logger.warning("The classes go by numbers, for the recipe's data is not here: %s", error)
        known = None
    if known and (count is None or len(known) == count):
        return known
    return [{"id": k, "name": str(k)} for k in range(count or lazy.model.detector.num_classes)]
