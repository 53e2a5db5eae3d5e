# SPDX-License-Identifier: Apache-2.0
"""Look up objects by name, and names of objects, as in `detectron2.utils.registry`."""

import importlib
from typing import Any

from fvcore.common.registry import Registry

from ..._refusal import EMBEDDED, needs_detectron2

__all__ = ["Registry", "locate"]

_DOOR = "dino_d2.detectron2."
_EMBEDDED = f"{EMBEDDED}."


def _to_embedded(name: str) -> str:
    """Turn `detectron2.x` and `dino_d2.detectron2.x` into the name of this engine's `x`."""
    if name.startswith("detectron2."):
        name = f"dino_d2.{name}"
    if name.startswith(_DOOR) and not name.startswith(_EMBEDDED):
        name = _EMBEDDED + name[len(_DOOR) :]
    return name


def locate(name: str) -> Any:
    """Import the object with a dotted name.

    Args:
        name: `package.module.object`; the last parts may be attributes of a class. Names of Detectron2, with or
            without the prefix `dino_d2.`, stand for this engine's objects, so that a config.yaml written with either
            engine loads.

    Raises:
        ImportError: there is no such object, or a module cannot be imported.
    """
    parts = _to_embedded(name).split(".")
    for split in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:split])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module_name}.".startswith(f"{_to_embedded(error.name)}."):
                continue  # the last part may be an attribute of the module before it
            raise
        try:
            for attribute in parts[split:]:
                found = getattr(found, attribute)
        except AttributeError:
            break
        return found
    if _to_embedded(name).startswith(_EMBEDDED):
        raise ImportError(needs_detectron2(f"'{name}'"))
    raise ImportError(f"Cannot locate '{name}': no such object in an installed package.")


def _convert_target_to_string(target: Any) -> str:
    """The shortest name with which `locate` finds `target`; names of this engine are those of the door."""
    module, qualname = target.__module__, target.__qualname__
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        candidate = ".".join([*parts[:length], qualname])
        try:
            if locate(candidate) is target:
                break
        except ImportError:
            continue
    return candidate.replace(_EMBEDDED, _DOOR, 1)
