# SPDX-License-Identifier: Apache-2.0
"""Recipes and their models by name, as in `detectron2.model_zoo`."""

import copy
import os
from collections.abc import Sequence

from omegaconf import DictConfig

from dino_d2.detectron2.config import instantiate
from dino_d2.engine.config import read_config
from dino_d2.engine.overrides import apply_overrides
from dino_d2.meta_arch import DETR
from dino_d2.predict.weights import adopt_class_count, fill, local_file, move_to_device, read_weights


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
        weights: a checkpoint of this project or a published one, by path or address. Without it the backbone has the
            weights that the recipe names (downloaded if needed) and the rest is random.
        device: for example "cuda:1"; the default is CUDA if available, else the CPU.

    Raises:
        UserError: a file is missing, the weights belong to another model, or the device cannot be used.
    """
    name = "the given config" if isinstance(config, DictConfig) else os.fspath(config)
    cfg = copy.deepcopy(config) if isinstance(config, DictConfig) else get_config(config)
    tensors = None
    if weights is not None:
        tensors = read_weights(local_file(os.fspath(weights)))
        if "pretrained" in cfg.model.detector.backbone:
            cfg.model.detector.backbone.pretrained = False
        adopt_class_count(cfg, tensors)
    model: DETR = instantiate(cfg.model).eval()
    if tensors is not None:
        fill(model, tensors, str(weights), name)
    return move_to_device(model, device)
