# SPDX-License-Identifier: Apache-2.0
"""Memory of a Predictor that sees pictures of many sizes, in a process of its own."""

import os
import subprocess
import sys

import pytest
import torch

from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.speed.memory import ONEDNN_CACHES
from tests.paths import CONFIGS, ROOT

RECIPE = str(CONFIGS / "dino" / "dino_tiny_shapes.py")

#: MiB by which the process may grow from the 100th to the 300th size. Without a limit on the caches of oneDNN and of
#: PyTorch's bridge to it, it grows by more than 100.
LIMIT = 40

MEASURE = """
import ctypes, gc, sys
import numpy as np
from dino_d2.predict import Predictor

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024

predictor = Predictor(sys.argv[1], sys.argv[2], device="cpu")
sizes = np.random.default_rng(0).integers(60, 260, (300, 2))
for number, (height, width) in enumerate(sizes, start=1):
    predictor(np.zeros((height, width, 3), np.uint8), "RGB")
    if number in (100, 300):
        print(resident())
"""


@pytest.mark.slow
@pytest.mark.large_memory
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_level_over_300_picture_sizes(tmp_path):
    torch.save({"model": instantiate(LazyConfig.load(RECIPE).model).state_dict()}, tmp_path / "weights.pth")
    command = [sys.executable, "-c", MEASURE, RECIPE, str(tmp_path / "weights.pth")]
    environment = {name: value for name, value in os.environ.items() if name not in ONEDNN_CACHES}  # our own default
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    after_100, after_300 = map(float, done.stdout.split()[-2:])
    assert after_300 - after_100 < LIMIT
