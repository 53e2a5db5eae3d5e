# SPDX-License-Identifier: Apache-2.0
"""A recipe's model and its weights, with error messages for faults of a config or a checkpoint."""

from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dino_d2.checkpoint import load_checkpoint
from dino_d2.checkpoint.report import LoadReport, summary
from dino_d2.detectron2.checkpoint import DetectionCheckpointer
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.utils.file_io import PathManager
from dino_d2.errors import UserError
from dino_d2.modeling import TimmBackbone
from dino_d2.modeling.backbone import BackboneError

from .building import FAULTS, fault


def build_model(cfg: DictConfig) -> nn.Module:
    """``cfg.model`` on ``cfg.train.device``.

    Raises:
        UserError: its parts cannot be built, or do not fit together.
    """
    try:
        model = instantiate(cfg.model)
    except BackboneError as error:
        raise UserError(f"model.detector.backbone: {error}") from error
    except ValueError as error:
        raise UserError(f"model: {error}") from error
    except FAULTS as error:
        raise UserError(f"model: cannot be built: {fault(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"model: builds {type(model).__name__}, not a module of PyTorch")
    check_channels(cfg, model)
    return model.to(cfg.train.device)


def precision(cfg: DictConfig) -> torch.dtype | None:
    """Of autocast in training and evaluation; None for float32."""
    return getattr(torch, cfg.train.amp.dtype) if cfg.train.amp.enabled else None


def check_channels(cfg: DictConfig, model: nn.Module) -> None:
    """
    Raises:
        UserError: the neck expects other channels than the backbone has, for example after a change of the backbone.
    """
    backbone, expected = (
        model.get_submodule("detector.backbone"),
        OmegaConf.select(cfg, "model.detector.neck.in_channels"),
    )
    if not isinstance(backbone, TimmBackbone) or expected is None:
        return
    if dict(expected) != backbone.out_channels:
        channels = "{" + ", ".join(f"{stage}: {number}" for stage, number in backbone.out_channels.items()) + "}"
        raise UserError(
            f"model.detector.neck.in_channels is {expected}, but the backbone {cfg.model.detector.backbone.name} "
            f"gives other maps. Set 'model.detector.neck.in_channels={channels}'"
        )


def load_weights(model: nn.Module, path: str) -> LoadReport | None:
    """Fill the model from a checkpoint of ours or a published one; ``path`` may be an address that iopath knows.

    Returns:
        the report; None for Detectron2's own backbones, whose checkpointer makes none.

    Raises:
        UserError: there is no such file, it cannot be read, or nothing in it fits.
    """
    if "://" not in path and not PathManager.isfile(path):
        what = "this is a folder; name the file in it" if Path(path).is_dir() else "there is no such file"
        raise UserError(f"train.init_checkpoint={path}: {what} (looked from {Path.cwd()})")
    if not isinstance(model.get_submodule("detector.backbone"), TimmBackbone):
        # Detectron2's own backbones keep Detectron2's names, which its checkpointer matches.
        DetectionCheckpointer(model).load(path)
        return None
    try:
        return load_checkpoint(model, PathManager.get_local_path(path))
    except (ValueError, OSError) as error:
        raise UserError(f"train.init_checkpoint: {error}") from error


def check_whole(report: LoadReport | None) -> None:
    """
    Raises:
        UserError: the weights that were loaded are not those of a trained model like this one.
    """
    if report is None:
        return
    if report.lacking or report.misshapen:
        lacking, misshapen = summary(report.lacking), summary(list(report.misshapen))
        what = f"it has no {lacking}" if lacking else f"other shape: {misshapen}"
        raise UserError(
            f"train.init_checkpoint={report.source}: weights of another model ({what}). Evaluate with the recipe, or "
            "the config.yaml, that they were trained with"
        )
    if report.remade:  # after the above: a model of other parts has other class heads as well
        raise UserError(
            f"train.init_checkpoint={report.source}: {report.classes}. New heads detect nothing: train first, or "
            "evaluate on the dataset that the checkpoint was trained on"
        )
