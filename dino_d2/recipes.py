# SPDX-License-Identifier: Apache-2.0
"""Finds recipes by name and derives their output folder from the file name."""

import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from dino_d2.detectron2.config import LazyConfig

#: `train.output_dir` of Detectron2's and this project's configs/common/train.py.
DEFAULT_OUTPUT = "./output"


def configs_folder() -> Path:
    """The recipes of this installation: inside the package, or the checkout's configs/ if it is installed editable."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(path: str | os.PathLike) -> str:
    """The config file that ``path`` names: in the working folder, else among the recipes of this installation.

    Args:
        path: for example "my_recipe.py", "dino/dino_r50_4scale_12ep.py" or "configs/dino/dino_r50_4scale_12ep.py".

    Returns:
        the path of an existing file, or ``path`` unchanged if there is none.
    """
    if not os.path.isfile(path) and not os.path.isabs(path):
        parts = Path(path).parts
        installed = configs_folder().joinpath(*(parts[1:] if parts[:1] == ("configs",) else parts))
        if installed.is_file():
            return str(installed)
    return os.fspath(path)


def load_config_file(path: str) -> Any:
    """Load a recipe or a config.yaml as `LazyConfig.load` does, and set the default output folder of a recipe.

    A recipe that leaves ``train.output_dir`` at its default writes to ``./output/<stem of the file name>``. A
    config.yaml keeps the folder of its run.
    """
    is_recipe = Path(path).suffix == ".py"
    if not is_recipe:  # Detectron2 reads it in the encoding of the locale, and a run writes UTF-8
        content = yaml.unsafe_load(Path(path).read_text(encoding="utf-8"))
        return OmegaConf.create(content, flags={"allow_objects": True})
    cfg = LazyConfig.load(path)
    if OmegaConf.is_dict(cfg) and OmegaConf.select(cfg, "train.output_dir") == DEFAULT_OUTPUT:
        cfg.train.output_dir = f"{DEFAULT_OUTPUT}/{Path(path).stem}"
    return cfg
