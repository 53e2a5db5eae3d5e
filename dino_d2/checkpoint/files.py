# SPDX-License-Identifier: Apache-2.0
"""Reads tensors from checkpoint files; nothing in a file is executed."""

import unicodedata
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from dino_d2.detectron2.utils.file_io import PathManager
from dino_d2.errors import UserError

from .numpy_pickle import read_numpy_pickle
from .pickle_syntax import in_one_line
from .torch_file import read_torch

#: Keys of the state dict in the dictionaries that trainers save.
CONTAINERS = ("model", "state_dict", "model_state_dict")

#: Prefixes that wrappers put before every name.
WRAPPERS = ("module.", "_orig_mod.")


def read_tensors(path: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, on the CPU.

    Args:
        path: .pth or .pt (PyTorch), .safetensors (timm), or .pkl (Detectron2's model zoo: NumPy arrays); a local path
            or anything that iopath can fetch.

    Raises:
        UserError: the file is damaged or of another kind, holds more than tensors and plain values, or no tensors.
        OSError: it cannot be opened.
    """
    readers = {".pkl": read_numpy_pickle, ".safetensors": read_safetensors}
    content = readers.get(Path(path).suffix, read_torch)(PathManager.get_local_path(path))
    for container in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
            break
    tensors = {}
    for name, value in (content if isinstance(content, dict) else {}).items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[strip_wrappers(name)] = value
    if not tensors:
        raise UserError(f"{path}: no tensors in it; a checkpoint is a dictionary of tensors, or has one as 'model'")
    return tensors


def read_categories(path: str) -> list[dict] | None:
    """The classes [{"id", "name"}] that a run of this project wrote into the file; None where it has none.

    Raises:
        UserError: as for `read_tensors`, or the classes have no ids and names.
    """
    if Path(path).suffix not in (".pth", ".pt"):
        return None
    content = read_torch(PathManager.get_local_path(path))
    categories = content.get("categories") if isinstance(content, dict) else None
    if categories is not None and not is_categories(categories):
        raise UserError(f"{path}: damaged: its 'categories' are not a list of ids and names. Fetch it again.")
    return categories


def is_categories(value: object) -> bool:
    """Whether a value is a list of {"id": integer, "name": text without line breaks}."""
    return (
        isinstance(value, list)
        and all(isinstance(c, dict) and isinstance(c.get("id"), int) and isinstance(c.get("name"), str) for c in value)
        and not any(unicodedata.category(character) == "Cc" for c in value for character in c["name"])
    )


def strip_wrappers(name: str) -> str:
    """A tensor's name without the prefixes of DistributedDataParallel and torch.compile."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def read_safetensors(path: str) -> dict[str, Tensor]:
    """
    Raises:
        UserError: the file is of another kind or damaged.
    """
    try:
        return load_file(path)
    except Exception as error:  # the library raises errors of several kinds for a damaged header
        raise UserError(f"{path}: no safetensors file, or damaged ({in_one_line(error)}). Fetch it again.") from error
