# SPDX-License-Identifier: Apache-2.0
"""Recipes for prediction: the config without pretrained weights, and the class names."""

import logging
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from dino_d2.data.category_lookup import look_up_categories
from dino_d2.engine.config import disable_pretrained_weights, read_config
from dino_d2.errors import UserError

logger = logging.getLogger(__name__)


def load_recipe(config_file: str, overrides: Sequence[str]) -> DictConfig:
    """The config of a recipe or a run, without the published weights of its backbone.

    Raises:
        UserError: there is no such file, or it is not a recipe of a detector with a test loader.
    """
    lazy = read_config(config_file, overrides)
    for key in ("model.detector.backbone", "dataloader.test.mapper"):
        if OmegaConf.select(lazy, key) is None:
            raise UserError(
                f"{config_file} is not a recipe: it has no {key}. Give a file such as "
                "configs/dino/dino_r50_4scale_12ep.py, or the config.yaml of a run"
            )
    disable_pretrained_weights(lazy)  # all weights come from the checkpoint
    return lazy


def recorded_categories(lazy: DictConfig) -> list[dict]:
    """[{"id", "name"}] from the run's config.yaml, or of the recipe's test set.

    Raises:
        UserError: neither has them.
    """
    classes = OmegaConf.select(lazy, "data.classes")
    if OmegaConf.is_list(classes):  # a run writes them into its config.yaml
        return [{"id": k, "name": name} for k, name in enumerate(classes)]
    return look_up_categories(OmegaConf.select(lazy, "dataloader.test.dataset.names"))


def categories_of_recipe(lazy: DictConfig, count: int | None) -> list[dict]:
    """Categories of the run's config.yaml or the recipe's test set; numbers if these are not known or do not fit."""
    count = count or lazy.model.detector.num_classes
    try:
        recorded = recorded_categories(lazy)
        if len(recorded) == count:
            return recorded
        reason = f"the recipe's test set has {len(recorded)} classes, the model {count}"
    except UserError as error:
        reason = str(error)
    logger.warning("Classes are named by numbers, because neither checkpoint nor recipe gives names: %s.", reason)
    return [{"id": k, "name": str(k)} for k in range(count)]
