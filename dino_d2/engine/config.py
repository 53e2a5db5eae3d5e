# SPDX-License-Identifier: Apache-2.0
"""The config of a run, from a file, the command line and the dataset."""

import difflib
import logging
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dino_d2.detectron2.config import instantiate
from dino_d2.errors import UserError
from dino_d2.recipes import configs_folder, find_config, load_config_file

from .datasets import check_names
from .overrides import apply_overrides, check_calls
from .schedule import check_schedule
from .settings import check_batch_size, check_settings
from .setup import set_up, start_log
from .trusted_targets import check_trust
from .values import convert_values

logger = logging.getLogger(__name__)

#: Keys that a recipe may leave to be computed from the dataset.
CLASSES = ("data.classes", "model.detector.num_classes")
IMAGE_SIZE = ("data.image_size",)
SCHEDULE = ("train.max_iter", "train.eval_period", "train.checkpointer.period")


def load_config(args: Namespace) -> DictConfig:
    """Load a config with the command line's overrides and check it; nothing is written.

    Raises:
        UserError: there is no such config file, or a value in it or on the command line cannot be used.
    """
    cfg = read_config(args.config_file, args.opts)
    check_config(cfg)
    if not args.eval_only:
        check_batch_size(cfg)
    return cfg


def begin(cfg: DictConfig, args: Namespace) -> None:
    """Start the log in the output folder and compute the config's remaining values.

    config.yaml is not written here: training writes it once the run has passed all checks.
    """
    start_log(cfg)
    # config.yaml holds the results, so that a trained model does not need the dataset.
    resolve_calls(cfg, CLASSES + IMAGE_SIZE)
    set_up(cfg, Namespace(**{**vars(args), "config_file": find_config(args.config_file)}))  # the log has its content


def check_config(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: a call, a value or a dataset's name is wrong, or this machine lacks what the config asks for.
    """
    check_calls(cfg)
    check_settings(cfg)
    check_names(cfg)
    check_schedule(cfg)


def disable_pretrained_weights(cfg: DictConfig) -> None:
    """Disable the download of ImageNet weights for a backbone that is loaded from a checkpoint.

    Detectron2's backbones have no such setting and download nothing.
    """
    backbone = cfg.model.detector.backbone
    target = backbone.get("_target_", "")
    name = target if isinstance(target, str) else target.__name__
    if "pretrained" in backbone or name.endswith("TimmBackbone"):
        backbone.pretrained = False


def read_config(path: str, overrides: Sequence[str] = ()) -> DictConfig:
    """A recipe or the config.yaml of a run, with overrides.

    Args:
        overrides: ``path.to.key=value``. A config.yaml may only name parts of detectors, unless
            ``train.trust_config=True`` is among them (docs/security.md).

    Raises:
        UserError: the file does not exist, cannot be executed (the message has the line) or calls something that is not
            allowed, or an override cannot be applied.
    """
    if not path:
        raise UserError("no config file is given. Add for example --config-file configs/dino/dino_tiny_shapes.py")
    path = find_config(path)
    if not Path(path).is_file():
        known = sorted(str(file) for file in Path("configs").glob("*/*.py") if file.parent.name != "common")
        near = difflib.get_close_matches(path, known, n=1)
        raise UserError(
            f"there is no config file {path!r} (looked from {Path.cwd()}). "
            + (f"Did you mean {near[0]}?" if near else "Recipes lie in configs/, e.g. configs/dino/dino_tiny_shapes.py")
        )
    if Path(path).suffix not in (".py", ".yaml", ".yml"):
        raise UserError(f"--config-file {path}: a config is a .py file, or the config.yaml of a run")
    overrides = check_trust(path, overrides)
    try:
        cfg = load_config_file(path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"config file {path}, or a file that it imports, is not in the encoding {error.encoding!r} ({error}). Save "
            "it in UTF-8. Detectron2 reads recipes in the encoding of the locale: set the environment variable "
            "PYTHONUTF8=1"
        ) from error
    except Exception as error:  # a recipe is a program, which can fail in every way
        raise UserError(f"config file {path} cannot be executed: {_place(error)}") from error
    if not OmegaConf.is_dict(cfg) or not len(cfg):
        raise UserError(f"config file {path} holds no keys. Is it the config.yaml of a run?")
    fill_train_section(cfg)
    cfg = apply_overrides(cfg, overrides)
    convert_values(cfg)
    return cfg


def fill_train_section(cfg: DictConfig) -> None:
    """Add keys of configs/common/train.py that ``cfg.train`` lacks, as Detectron2's own file does."""
    if OmegaConf.is_dict(OmegaConf.select(cfg, "train")):
        section = load_config_file(str(configs_folder() / "common" / "train.py")).train
        defaults: Any = OmegaConf.to_container(section)
        _fill(cfg.train, defaults)


def _fill(section: DictConfig, defaults: dict[str, Any]) -> None:
    for key, value in defaults.items():
        if key not in section:
            section[key] = value
        elif isinstance(value, dict) and OmegaConf.is_dict(section[key]) and "_target_" not in section[key]:
            _fill(section[key], value)


def _place(error: BaseException) -> str:
    """Description of an error with the config file and line where it occurred."""
    if isinstance(error, SyntaxError) and isinstance(error.__cause__, SyntaxError):
        cause = error.__cause__  # it has the line; only Detectron2's outer error has the file name
        named = re.search(r"\S+\.py", str(error))
        file = named[0] if named and cause.filename in (None, "<unknown>") else cause.filename
        return f"SyntaxError: {cause.msg} ({file}, line {cause.lineno}). Correct it there"
    imported = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    frames = traceback.extract_tb(error.__traceback__)
    # Config files are executed, not imported.
    files = [frame for frame in frames if frame.filename not in imported and Path(frame.filename).is_file()]
    where = f" ({files[-1].filename}, line {files[-1].lineno})" if files else ""
    return f"{type(error).__name__}: {error}{where}. Correct it there"


def resolve_calls(cfg: DictConfig, keys: tuple[str, ...]) -> None:
    """Replace each LazyCall at one of the keys by its result."""
    for key in keys:
        node = OmegaConf.select(cfg, key)
        if OmegaConf.is_dict(node) and "_target_" in node:
            OmegaConf.update(cfg, key, instantiate(node), merge=False)
            if key not in CLASSES:
                logger.info("%s=%s, computed from the data", key, OmegaConf.select(cfg, key))
