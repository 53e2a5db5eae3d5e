"""What a bug report needs to know, as in `detectron2.utils.collect_env`."""

import importlib.metadata
import os
import sys

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

_PACKAGES = ("numpy", "pillow", "torchvision", "timm", "fvcore", "iopath", "omegaconf", "pycocotools")


def collect_env_info() -> str:
    """A table of the platform, the devices and the versions that matter."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("detectron2", f"embedded in dino_d2 {importlib.import_module('dino_d2').__version__}"),
        ("PyTorch", f"{torch.__version__} @{os.path.dirname(torch.__file__)}"),
        ("GPU available", torch.cuda.is_available()),
        *((f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())),
        *((package, _version(package)) for package in _PACKAGES),
    ]
    return f"{tabulate(rows)}\n{torch.__config__.show()}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not found"
