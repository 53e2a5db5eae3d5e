# SPDX-License-Identifier: Apache-2.0
"""Build the objects that a lazy config describes, as in `detectron2.config.instantiate`."""

import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import ListConfig

from ..utils.registry import locate


def instantiate(cfg: Any) -> Any:
    """Call every `_target_` in `cfg` with its arguments, the inner ones first.

    A list gives a list of what its elements give; a mapping without `_target_` and everything else are
    returned as they are.

    Raises:
        ImportError: if a `_target_` given as a string names no object.
        TypeError: if a `_target_` cannot be called, or not with these arguments; the log names it.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if not isinstance(cfg, Mapping) or "_target_" not in cfg:
        return cfg

    arguments = {key: instantiate(value) for key, value in cfg.items()}
    target = arguments.pop("_target_")
    if isinstance(target, str):
        target = locate(target)
    if not callable(target):
        raise TypeError(f"_target_ {target!r} cannot be called, so it cannot be instantiated.")
    try:
        return target(**arguments)
    except TypeError:
        name = getattr(target, "__qualname__", str(target))
        logging.getLogger("detectron2.config.instantiate").error(
            "Error when instantiating %s.%s!", getattr(target, "__module__", "?"), name
        )
        raise
