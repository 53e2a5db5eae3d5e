"""Tensors out of checkpoint files, without running anything that a file says."""

import argparse
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dino_d2.detectron2.utils.file_io import PathManager

#: Where the tensors lie in the dictionaries that trainers save.
CONTAINERS = ("model", "state_dict", "model_state_dict")

#: How files of torch.save begin: a zip archive, or the pickle of versions before 1.6.
PYTORCH_STARTS = (b"PK", b"\x80")

#: What wrappers put in front of every name.
WRAPPERS = ("module.", "_orig_mod.")


def read_tensors(path: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, on the CPU.

    Args:
        path: .pth or .pt (PyTorch), .safetensors (timm), or .pkl (Detectron2's model zoo: NumPy arrays); a local path
            or anything that iopath can fetch.

    Raises:
        ValueError: the file is cut off or of another kind, or holds more than tensors and plain values, or no tensors.
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
        if isinstance(value, Tensor):
            tensors[strip_wrappers(name)] = value
    if not tensors:
        raise ValueError(f"{path}: no tensors in it; a checkpoint is a dictionary of tensors, or has one as 'model'")
    return tensors


def read_categories(path: str) -> list[dict] | None:
    """What the classes are, [{"id", "name"}], where a run of this project has written it into the file."""
    if Path(path).suffix not in (".pth", ".pt"):
        return None
    content = read_torch(PathManager.get_local_path(path))
    return content.get("categories") if isinstance(content, dict) else None


def strip_wrappers(name: str) -> str:
    """A tensor's name without what DistributedDataParallel and torch.compile put in front."""
    while name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def read_torch(path: str) -> Any:
    """Content of a PyTorch file: tensors, plain values and the authors' ``argparse.Namespace``, nothing else."""
    with open(path, "rb") as file:
        start = file.read(16)
    if not start.startswith(PYTORCH_STARTS):
        raise ValueError(
            f"{path}: no PyTorch file: it begins with {start!r}. "
            + ("Is it a web page saved in place of the download? " if start.lstrip().startswith(b"<") else "")
            + "Fetch it again, or give the right file."
        )
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: cut off after {Path(path).stat().st_size:,} bytes. Fetch or copy it again.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Mapped, not read: of a training checkpoint the optimizer's part, twice the model's, is never touched.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: not read, because it holds more than tensors and plain values, and such a file can run any code "
            "when it is read. If you trust it, write its state dict to a new file: "
            'torch.save({"model": torch.load(OLD, weights_only=False)["model"]}, NEW).\n'
            f"PyTorch says: {error}"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: damaged, fetch or copy it again. PyTorch says: {error}") from error


def read_safetensors(path: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: no safetensors file, or cut off: {error}. Fetch it again.") from error


class NumpyUnpickler(pickle.Unpickler):
    """Admits NumPy arrays, plain values and nothing that could act."""

    ADMITTED = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "scalar"),
            ("collections", "OrderedDict"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(
                f"a model pickle may hold NumPy arrays only, this one asks for {module}.{name}"
            )
        return super().find_class(module, name)


def read_numpy_pickle(path: str) -> Any:
    """Content of a pickle of NumPy arrays, as Detectron2's model zoo has them."""
    with open(path, "rb") as file:
        try:
            return NumpyUnpickler(file, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError, ValueError) as error:
            raise ValueError(f"{path}: not read: {error}. Fetch it again, or give the right file.") from error
