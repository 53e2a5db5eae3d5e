# SPDX-License-Identifier: Apache-2.0
"""Build the objects that a lazy config describes, as in `detectron2.config.instantiate`."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ..utils.registry import locate


def instantiate(cfg: Any) -> Any:
    """Build the objects that `cfg` describes, inner ones first.

    Every mapping with a `_target_` is replaced by the result of calling the target with the other values, in lists
    too. A dataclass in a config becomes that dataclass again. Everything else is returned as it is.

    Raises:
        ImportError: a `_target_` given as a string names no object.
        TypeError: a `_target_` is not callable, or does not accept these arguments; the log names it.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and dataclasses.is_dataclass(OmegaConf.get_type(cfg)):
        return OmegaConf.to_object(cfg)
    if not isinstance(cfg, Mapping) or "_target_" not in cfg:
        return cfg

    arguments = {key: instantiate(value) for key, value in cfg.items()}
    target = arguments.pop("_target_")
    if isinstance(target, str):
        target = locate(target)
    if not callable(target):
        raise TypeError(f"_target_ {target!r} is not callable.")
    try:
        return target(**arguments)
    except TypeError:
        name = getattr(target, "__qualname__", str(target))
        logging.getLogger("detectron2.config.instantiate").error(
            "Error when instantiating %s.%s!", getattr(target, "__module__", "?"), name
        )
        raise
