# SPDX-License-Identifier: Apache-2.0
"""Recipes and their models by name, as in `detectron2.model_zoo`."""

import copy
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from dino_d2.checkpoint.classes import num_classes
from dino_d2.checkpoint.files import read_tensors
from dino_d2.detectron2.config import instantiate
from dino_d2.engine.config import read_config
from dino_d2.engine.overrides import apply_overrides
from dino_d2.errors import UserError
from dino_d2.meta_arch import DETR
from dino_d2.predictor import _fill, _move


def get_config(path: str | os.PathLike, overrides: Sequence[str] = ()) -> DictConfig:
    """A config to read, edit and `instantiate`.

    Args:
        path: a file in the working folder, or the name of a recipe of this installation, such as
            "dino/dino_r50_4scale_12ep.py"; a recipe or the config.yaml of a run.
        overrides: changes as on the command line, ``path.to.key=value``.

    Raises:
        UserError: there is no such config, it cannot be executed, or an override does not fit it.
    """
    return apply_overrides(read_config(os.fspath(path)), overrides)


def build_model(
    config: str | os.PathLike | DictConfig, weights: str | os.PathLike | None = None, device: str | None = None
) -> DETR:
    """The model of a recipe in evaluation mode; call ``.train()`` on it to train it.

    In evaluation mode the model maps ``list[{"image": uint8 or float [3, H, W], "height", "width"}]``, with images in
    RGB (or the order of the recipe's mapper), values 0 to 255 and any sizes, to ``list[{"instances": Instances}]`` of
    the same length, with boxes xyxy in pixels of ``height`` x ``width``. In training mode each dict also has
    "instances" (``gt_boxes`` xyxy in pixels of the image, ``gt_classes``), and the model returns a dict of scalar
    losses. ``model.detector`` is the tensor core: images [B, 3, H, W] and padding mask [B, H, W] (True is padding) in,
    logits [L, B, N, C] and normalised cxcywh boxes [L, B, N, 4] out.

    Args:
        config: as for `get_config`, or a config that it returned; it is not changed.
        weights: a checkpoint of this project or a published one. Without it the backbone has the weights that the
            recipe names (downloaded where needed) and the rest is random.
        device: for example "cuda:1"; the default is CUDA if available, else the CPU.

    Raises:
        UserError: a file is missing, the weights belong to another model, or the device cannot be used.
    """
    name = "the given config" if isinstance(config, DictConfig) else os.fspath(config)
    cfg = copy.deepcopy(config) if isinstance(config, DictConfig) else get_config(config)
    tensors = None
    if weights is not None:
        if not Path(weights).is_file():
            raise UserError(f"there is no checkpoint {weights} (looked from {Path.cwd()})")
        try:
            tensors = read_tensors(os.fspath(weights))
        except (ValueError, RuntimeError, EOFError) as error:  # PyTorch raises the last two for truncated files
            raise UserError(f"{weights} is not a checkpoint, or cannot be read: {error}") from error
        if "pretrained" in cfg.model.detector.backbone:
            cfg.model.detector.backbone.pretrained = False
        count = num_classes({key.removeprefix("detector."): tensor for key, tensor in tensors.items()})
        if count and not isinstance(cfg.model.detector.num_classes, int):
            cfg.model.detector.num_classes = count  # instead of counting the classes of the recipe's dataset
    model: DETR = instantiate(cfg.model).eval()
    if tensors is not None:
        _fill(model, tensors, str(weights), name)
    return _move(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
