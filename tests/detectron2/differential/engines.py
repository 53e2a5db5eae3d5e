# SPDX-License-Identifier: Apache-2.0
"""The same module of both engines, for tests that compare them."""

import importlib
from types import ModuleType

PREFIXES = {"real": "detectron2", "embedded": "dino_d2.detectron2.embedded"}
ENGINES = tuple(PREFIXES)


def module(engine: str, name: str) -> ModuleType:
    """`module("real", "data.build")` is `detectron2.data.build`."""
    return importlib.import_module(f"{PREFIXES[engine]}.{name}")


def both(name: str) -> tuple[ModuleType, ModuleType]:
    """(real, embedded)."""
    return module("real", name), module("embedded", name)
