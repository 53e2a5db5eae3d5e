"""Detectron2's ``DefaultPredictor`` for this project's models: a yacs config from a LazyConfig file and weights.

from dino_d2.detectron2.engine import DefaultPredictor
from dino_d2.predictor import predictor_cfg

predictor = DefaultPredictor(predictor_cfg("configs/dino/dino_r50_4scale_12ep.py", "model_final.pth"))
instances = predictor(image)["instances"]  # image: uint8 [H, W, 3] in BGR order, as OpenCV reads it
"""

import os
from collections.abc import Sequence

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dino_d2.data.coco_format import metadata_of
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.modeling import META_ARCH_REGISTRY


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
    lazy = LazyConfig.apply_overrides(LazyConfig.load(config_file), list(overrides))
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
