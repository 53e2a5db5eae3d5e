# SPDX-License-Identifier: Apache-2.0
"""Checks of a config's values before a run starts."""

import tempfile
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError

from .kinds import SECTION
from .trackers import check_trackers
from .values import refusal

#: Sections that every recipe has.
SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")

#: Further sections that a run reads.
PARTS = (
    "model.detector", "model.detector.backbone", "dataloader.train", "dataloader.train.dataset", "dataloader.test",
    "dataloader.test.dataset", "dataloader.test.mapper", "optimizer.params", "train.amp", "train.ema", "train.ddp",
    "train.checkpointer", "train.early_stopping", "train.panels", "train.wandb",
    "train.mlflow",
)  # fmt: skip

#: Values without which no run can be built.
REQUIRED = ("model._target_", "optimizer._target_", "optimizer.params", "train.device", "train.output_dir")


def check_settings(cfg: DictConfig) -> None:
    """Check sections, device and output folder.

    Raises:
        UserError: a section or value is missing, the device is not available, or the output folder is not writable.
    """
    missing = [section for section in SECTIONS if section not in cfg]
    if missing:
        raise UserError(
            f"the config lacks {', '.join(missing)}, which every recipe has. Recipes are in configs/*/; the files in "
            "configs/common/ are parts of recipes"
        )
    for section in (*SECTIONS, *PARTS):
        above, _, name = section.rpartition(".")
        node = OmegaConf.select(cfg, above) if above else cfg
        if OmegaConf.is_dict(node) and name in node and not OmegaConf.is_dict(node[name]):
            raise UserError(refusal(section, node[name], SECTION.words))
    for key in REQUIRED:
        if OmegaConf.select(cfg, key, throw_on_missing=False) is None:
            raise UserError(f"{key} has no value: the recipe lacks it, or an override has emptied it")
    if cfg.train.early_stopping.patience is not None and not cfg.train.best:
        raise UserError(
            f"train.early_stopping.patience={cfg.train.early_stopping.patience} needs the result that is to improve: "
            "add train.best=bbox/AP"
        )
    check_trackers(cfg)
    check_device(cfg.train.device)
    check_output_folder(cfg.train.output_dir)


def check_batch_size(cfg: DictConfig) -> None:
    """Check that the ranks can share a training batch.

    Raises:
        UserError: the batch size is not a multiple of the number of ranks.
    """
    batch, ranks = OmegaConf.select(cfg, "dataloader.train.total_batch_size"), comm.get_world_size()
    if batch is not None and batch % ranks:
        raise UserError(
            f"dataloader.train.total_batch_size={batch} cannot be shared evenly by {ranks} processes; make it a "
            f"multiple of {ranks}, or change --num-gpus"
        )


def check_device(device: str) -> None:
    """Check that PyTorch can allocate a tensor on a device.

    Raises:
        UserError: it cannot; the message lists the available devices.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        usable = ["cpu", *(f"cuda:{index}" for index in range(gpus))]
        raise UserError(
            f"train.device={device}: PyTorch cannot use this device ({str(error).splitlines()[0]}). Available here: "
            f"{', '.join(usable)}. For GPU drivers and PyTorch builds see docs/install.md"
        ) from error


def check_output_folder(folder: str) -> None:
    """Create the output folder and check that it is writable.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"train.output_dir={folder}: cannot be written to ({error.strerror}). Give another folder: "
            "train.output_dir=FOLDER"
        ) from error
