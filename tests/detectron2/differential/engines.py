# SPDX-License-Identifier: Apache-2.0
"""The same module of both engines, for tests that compare them."""

import importlib
import random
from types import ModuleType

import numpy as np
import torch

PREFIXES = {"real": "detectron2", "embedded": "dino_d2.detectron2.embedded"}
ENGINES = tuple(PREFIXES)


def module(engine: str, name: str) -> ModuleType:
    """`module("real", "data.build")` is `detectron2.data.build`."""
    return importlib.import_module(f"{PREFIXES[engine]}.{name}")


def both(name: str) -> tuple[ModuleType, ModuleType]:
    """(real, embedded)."""
    return module("real", name), module("embedded", name)


def seed_all(seed: int) -> None:
    """Seed NumPy's, Python's and torch's global generators."""
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    torch.manual_seed(seed)
