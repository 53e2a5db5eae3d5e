# SPDX-License-Identifier: Apache-2.0
"""Weights for prediction, which unlike training needs every tensor of the model."""

import logging
from pathlib import Path
from typing import TypeVar

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dino_d2.checkpoint import load_tensors
from dino_d2.checkpoint.classes import num_classes
from dino_d2.checkpoint.files import read_categories, read_tensors
from dino_d2.checkpoint.score_thresholds import ScoreThresholds
from dino_d2.detectron2.utils.file_io import PathManager
from dino_d2.errors import UserError
from dino_d2.meta_arch import DETR
from dino_d2.modeling.queries.content import UnknownLabelEmbedding

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=nn.Module)


def local_file(weights: str) -> str:
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
        raise UserError(f"there is no checkpoint {weights}: unknown kind of address, or nothing is there")
    return path


def read_weights(weights: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name.

    Raises:
        UserError: the file is not a checkpoint, or damaged.
    """
    try:
        return read_tensors(weights)
    except (ValueError, RuntimeError, EOFError) as error:  # PyTorch raises the last two for truncated files
        raise UserError(f"{weights} is not a checkpoint, or cannot be read: {error}") from error


def categories_of_checkpoint(weights: str, count: int | None) -> list[dict] | None:
    """[{"id", "name"}] that a checkpoint names, if it does.

    Args:
        weights: a local file.
        count: classes that its tensors have; None if it has no class head.

    Raises:
        UserError: it names another number of classes.
    """
    categories = read_categories(weights)
    if categories and count and len(categories) != count:
        raise UserError(f"{weights}: damaged: it names {len(categories)} classes, and its tensors have {count}")
    return categories


def best_thresholds(stored: ScoreThresholds | None, weights: str) -> ScoreThresholds:
    """The score thresholds that are stored in a checkpoint.

    Raises:
        UserError: there are none.
    """
    if stored is None:
        raise UserError(
            f"{weights} has no best score threshold. Find and store it: dino_d2 report --config-file CONFIG --weights "
            f"{weights} --output report --store-threshold; or give a number, such as 0.3"
        )
    return stored


def adopt_class_count(cfg: DictConfig, tensors: dict[str, Tensor]) -> int | None:
    """Build the model with the class count of a checkpoint, instead of counting the classes of the recipe's dataset.

    A number in the recipe is kept.

    Returns:
        the checkpoint's class count; None if it has no class head.
    """
    count = num_classes({name.removeprefix("detector."): tensor for name, tensor in tensors.items()})
    if count and not isinstance(cfg.model.detector.num_classes, int):
        cfg.model.detector.num_classes = count
    return count


def fill(model: DETR, tensors: dict[str, Tensor], weights: str, config_file: str) -> None:
    """Load the weights; every tensor that detection uses must be among them.

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
            f"{left[0]} ({detail}). Use the config.yaml of their run, or override the settings that differ, such "
            "as model.detector.num_classes=3"
        )


def move_to_device(model: Model, device: str | None) -> Model:
    """The model on a device; by default on a GPU if there is one, else on the CPU.

    Raises:
        UserError: the device is not available.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(device).startswith("meta"):
        raise UserError(f"device {device!r} cannot be used: it has shapes and no values")
    try:
        return model.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:  # PyTorch raises the latter if it was built without CUDA
        raise UserError(f"device {device!r} cannot be used: {error}") from error
