# SPDX-License-Identifier: Apache-2.0
"""The values of a config, looked at before a run begins."""

import tempfile
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError

from .kinds import SECTION
from .values import refusal

#: What every recipe has.
SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")

#: Further sections that a run reads.
PARTS = (
    "model.detector", "model.detector.backbone", "dataloader.train", "dataloader.train.dataset", "dataloader.test",
    "dataloader.test.dataset", "dataloader.test.mapper", "optimizer.params", "train.amp", "train.ema", "train.ddp",
    "train.checkpointer", "train.panels",
)  # fmt: skip

#: Values without which no run can be built.
REQUIRED = ("model._target_", "optimizer._target_", "optimizer.params", "train.device", "train.output_dir")


def check_settings(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: a section or a value is missing, or the device or the output folder cannot be used.
    """
    missing = [section for section in SECTIONS if section not in cfg]
    if missing:
        raise UserError(
            f"the config has no {', '.join(missing)}, so it is no recipe. Recipes lie in configs/*/, parts of them in "
            "configs/common/"
        )
    for section in (*SECTIONS, *PARTS):
        above, _, name = section.rpartition(".")
        node = OmegaConf.select(cfg, above) if above else cfg
        if OmegaConf.is_dict(node) and name in node and not OmegaConf.is_dict(node[name]):
            raise UserError(refusal(section, node[name], SECTION.words))
    for key in REQUIRED:
        if OmegaConf.select(cfg, key, throw_on_missing=False) is None:
            raise UserError(f"{key} has no value: the recipe lacks it, or an override has emptied it")
    check_device(cfg.train.device)
    check_output_folder(cfg.train.output_dir)


def check_batch_size(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: the ranks cannot share a training batch.
    """
    batch, ranks = OmegaConf.select(cfg, "dataloader.train.total_batch_size"), comm.get_world_size()
    if batch is not None and batch % ranks:
        raise UserError(
            f"dataloader.train.total_batch_size={batch} cannot be shared evenly by {ranks} processes; make it a "
            f"multiple of {ranks}, or change --num-gpus"
        )


def check_device(device: str) -> None:
    """
    Raises:
        UserError: PyTorch cannot put a tensor there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        usable = ["cpu", *(f"cuda:{index}" for index in range(gpus))]
        raise UserError(
            f"train.device={device}: PyTorch cannot use it ({str(error).splitlines()[0]}). Here it can use "
            f"{', '.join(usable)}. For another GPU driver or PyTorch build see docs/install.md"
        ) from error


def check_output_folder(folder: str) -> None:
    """
    Raises:
        UserError: it cannot be made or written to.
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
