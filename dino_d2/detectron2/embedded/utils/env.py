# SPDX-License-Identifier: Apache-2.0
"""Random seeds, as in `detectron2.utils.env`."""

import logging
import os
import random
from datetime import datetime

import numpy as np
import torch


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the generators of Python, NumPy and PyTorch (CPU and all CUDA devices).

    Args:
        seed: None makes one from the process id, the time and random bytes, and logs it.
    """
    if seed is None:
        clock = int(datetime.now().strftime("%S%f"))
        seed = os.getpid() + clock + int.from_bytes(os.urandom(2), "big")
        logging.getLogger("detectron2.utils.env").info("Using a generated random seed %d", seed)
    np.random.seed(seed)  # noqa: NPY002 augmentations draw from the global generator
    torch.manual_seed(seed)
    random.seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
