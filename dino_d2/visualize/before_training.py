# SPDX-License-Identifier: Apache-2.0
"""The pictures that `python -m dino_d2.data.check --pictures` writes."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dino_d2.data.coco_format import class_names
from dino_d2.data.train_command import FROM_SCRATCH
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.errors import UserError
from dino_d2.recipes import find_config, load_config_file

from .dataset import histograms, sheet_of_batch, sheet_of_labels
from .predictions import pick, save

#: Images in labels.png, and batches that are drawn.
LABELLED_IMAGES, BATCHES = 12, 2


def write_pictures(folder: Path, dataset: str, recipe: str) -> list[Path]:
    """Draw labels, statistics, and the first training batches as a recipe makes them; returns the files.

    Args:
        folder: is created.
        dataset: registered name.
        recipe: a config file for own data.

    Raises:
        UserError: there is no such recipe, it is not for own data, or the folder cannot be written to.
    """
    cfg = recipe_on(recipe, dataset)
    names = class_names(dataset)
    labels, statistics = folder / "labels.png", folder / "statistics.png"
    drawn = [folder / f"batch_{number}.png" for number in range(BATCHES)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save(sheet_of_labels(pick(dataset, LABELLED_IMAGES), names), labels)
        histograms(DatasetCatalog.get(dataset), names).savefig(statistics, dpi=100)
        for file, batch in zip(drawn, batches(cfg), strict=True):
            save(sheet_of_batch(batch, cfg.dataloader.train.mapper.image_format, names), file)
    except OSError as error:
        raise UserError(f"--pictures {folder}: cannot be written to ({error.strerror}). Give another folder") from error
    return [labels, statistics, *drawn]


def recipe_on(recipe: str, dataset: str) -> DictConfig:
    """A recipe for own data, with a registered dataset as its training set.

    Raises:
        UserError: there is no such recipe, or it is not for own data.
    """
    path = find_config(recipe)
    if not Path(path).is_file():
        raise UserError(f"--config-file {recipe}: there is no such recipe")
    cfg = load_config_file(path)
    if OmegaConf.select(cfg, "data.train") is None:
        raise UserError(
            f"--config-file {recipe}: has no keys for own data (data.root). Give a recipe that has, such as "
            f"{FROM_SCRATCH}"
        )
    cfg.dataloader.train.dataset.names = dataset
    return cfg


def batches(cfg: DictConfig) -> Iterator[list[dict]]:
    """The first training batches of a config, read in this process."""
    cfg.dataloader.train.num_workers = 0
    return itertools.islice(instantiate(cfg.dataloader.train), BATCHES)
