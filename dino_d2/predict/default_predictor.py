# SPDX-License-Identifier: Apache-2.0
"""Config for Detectron2's own ``DefaultPredictor``.

from dino_d2.detectron2.engine import DefaultPredictor
from dino_d2.predict import predictor_cfg

predictor = DefaultPredictor(predictor_cfg("configs/dino/dino_r50_4scale_12ep.py", "model_final.pth"))
instances = predictor(image)["instances"]  # image: uint8 [H, W, 3] in BGR order, as OpenCV reads it
"""

import logging
import os
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dino_d2.data.coco_format import metadata_of
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.config import CfgNode, get_cfg, instantiate
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.modeling import META_ARCH_REGISTRY
from dino_d2.errors import UserError
from dino_d2.recipes import find_config

from .recipe import load_recipe, recorded_categories

logger = logging.getLogger(__name__)


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
    lazy = load_recipe(str(config_file), overrides)
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
    return instantiate(load_recipe(cfg.MODEL.LAZY_CONFIG.FILE, cfg.MODEL.LAZY_CONFIG.OVERRIDES).model)


def _names_with_metadata(lazy: DictConfig) -> tuple[str, ...]:
    """The ``MetadataCatalog`` entry with the class names of the recipe's test set; empty if they are not known."""
    names = OmegaConf.select(lazy, "dataloader.test.dataset.names")
    if isinstance(names, str) and not OmegaConf.is_list(OmegaConf.select(lazy, "data.classes")):
        return (names,)
    try:
        return (metadata_of([category["name"] for category in recorded_categories(lazy)]),)
    except UserError as error:
        logger.warning("The predictor has no class names: %s.", error)
        return ()


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
            "max_size=...), or use dino_d2.Predictor, which applies any mapper."
        )
    return int(resize.short_edge_length[0]), int(resize.max_size)
