# SPDX-License-Identifier: Apache-2.0
"""The tensor core without the door to Detectron2: no dicts, no Instances, no engine."""

import pkgutil
import subprocess
import sys

import dino_d2.modeling
from tests.paths import ROOT

MODULES = [m.name for m in pkgutil.walk_packages(dino_d2.modeling.__path__, "dino_d2.modeling.")]

SCRIPT = """
import importlib, sys

class NoDoor:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] == ["dino_d2", "detectron2"] or name.split(".")[0] == "detectron2":
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, NoDoor())
for name in sys.argv[1:]:
    importlib.import_module(name)
from dino_d2 import denoising, modeling
import torch
encoder = modeling.DeformableEncoder(num_layers=1, embed_dim=32, num_heads=4, num_levels=1)
foreign = [m for m in sys.modules if m.startswith("dino_d2.")
           and m.split(".")[1] not in ("modeling", "layers", "denoising", "errors", "files", "_C", "_C_cuda")]
assert not foreign, foreign
"""


def test_every_file_of_the_core_is_imported_where_the_door_cannot_be():
    assert len(MODULES) > 25
    done = subprocess.run([sys.executable, "-c", SCRIPT, *MODULES], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
