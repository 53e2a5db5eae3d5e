# SPDX-License-Identifier: Apache-2.0
"""The values of a config, looked at before a run begins."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError

#: What every recipe has.
SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")

#: key -> (what is allowed, in words)
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "train.max_iter": (lambda v: v >= 1, "at least 1"),
    "train.eval_period": (lambda v: v >= 0, "at least 0, which evaluates at the end alone"),
    "train.log_period": (lambda v: v >= 1, "at least 1"),
    "train.checkpointer.period": (lambda v: v >= 1, "at least 1"),
    "train.accumulate": (lambda v: v >= 1, "at least 1"),
    "train.clip_grad_norm": (lambda v: v > 0, "greater than 0; a large number switches clipping off"),
    "train.amp.dtype": (lambda v: v in ("bfloat16", "float16"), "bfloat16 or float16"),
    "train.ema.decay": (lambda v: 0 <= v < 1, "in [0, 1)"),
    "model.detector.queries.num_queries": (lambda v: v >= 1, "at least 1"),
    "optimizer.lr": (lambda v: v > 0, "greater than 0"),
    "dataloader.train.total_batch_size": (lambda v: v >= 1, "at least 1"),
    "dataloader.train.num_workers": (lambda v: v >= 0, "at least 0"),
    "dataloader.test.num_workers": (lambda v: v >= 0, "at least 0"),
}


def check_settings(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: a section is missing, a value is out of its range, the device cannot be used, or the output folder
            cannot be written to.
    """
    missing = [section for section in SECTIONS if section not in cfg]
    if missing:
        raise UserError(
            f"the config has no {', '.join(missing)}, so it is no recipe. Recipes lie in configs/*/, parts of them in "
            "configs/common/"
        )
    for key, (allowed, words) in RANGES.items():
        section, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, section)
        if not OmegaConf.is_dict(node) or name not in node or OmegaConf.is_config(node[name]):
            continue
        if node[name] is None or not allowed(node[name]):
            raise UserError(f"{key}={'null' if node[name] is None else repr(node[name])}: must be {words}")
    batch, ranks = OmegaConf.select(cfg, "dataloader.train.total_batch_size"), comm.get_world_size()
    if batch is not None and batch % ranks:
        raise UserError(
            f"dataloader.train.total_batch_size={batch} cannot be shared evenly by {ranks} processes; make it a "
            f"multiple of {ranks}, or change --num-gpus"
        )
    check_device(cfg.train.device)
    check_output_folder(cfg.train.output_dir)


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
