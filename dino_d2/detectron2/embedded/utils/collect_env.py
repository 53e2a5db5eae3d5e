# SPDX-License-Identifier: Apache-2.0
"""Versions and devices for logs and bug reports, as in `detectron2.utils.collect_env`."""

import sys

import numpy as np
import torch
import torchvision
from tabulate import tabulate


def collect_env_info() -> str:
    """A table of the platform, the devices, and the versions of Python and the most important packages."""
    rows = [
        ("sys.platform", sys.platform),
        ("Python", sys.version.replace("\n", "")),
        ("detectron2", "embedded in dino_d2"),
        ("numpy", np.__version__),
        ("PyTorch", torch.__version__),
        ("torchvision", torchvision.__version__),
        ("GPU available", torch.cuda.is_available()),
        *((f"GPU {i}", torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())),
    ]
    return f"{tabulate(rows)}\n{torch.__config__.show()}"
