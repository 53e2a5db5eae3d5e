# SPDX-License-Identifier: Apache-2.0
"""What type checkers see of the package, as ``py.typed`` promises; `make types` checks the package itself."""

import subprocess
import sys

import pytest

from tests.paths import ROOT

DOOR = ROOT / "dino_d2" / "detectron2"

#: A program of a user, who checks it strictly.
PROGRAM = """
from typing_extensions import assert_type

from omegaconf import DictConfig
from torch import Tensor

from dino_d2 import Predictor, build_model, get_config
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.data import DatasetCatalog, transforms as T
from dino_d2.detectron2.engine import HookBase
from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.detectron2.utils.events import get_event_storage
from dino_d2.meta_arch import DETR
from dino_d2.modeling import DetectorOutput, StaticQueries


class Note(HookBase):
    def after_step(self) -> None:
        get_event_storage().put_scalar("note", 1.0)


config = get_config("dino/dino_r50_4scale_12ep.py", ["model.detector.num_classes=3"])
assert_type(config, DictConfig)
model = build_model(config)
assert_type(model, DETR)
predictor = Predictor("dino/dino_r50_4scale_12ep.py", "model.pth", precision="bfloat16")
assert_type(predictor("photo.jpg"), Instances)
assert_type(predictor(["one.jpg", "two.jpg"]), list[Instances])


def first_boxes(output: DetectorOutput) -> Tensor:
    return output.boxes[0]


queries = L(StaticQueries)(num_queries=10)
boxes = Boxes(first_boxes(model.detector(model.pixel_mean)))
names: list[str] = DatasetCatalog.list()
flip = T.RandomFlip(prob=0.5)
"""

WRONG = """
from dino_d2 import Predictor, get_config
from dino_d2.detectron2.config import LazyConfig, no_such_name

get_config(5)
Predictor("recipe.py", "model.pth", precision="int8")
LazyConfig.load(5)
"""


def test_each_module_of_the_embedded_engine_has_a_stub():
    """Its one line re-exports the module, under the name by which the door serves it."""
    modules = {path.relative_to(DOOR / "embedded") for path in (DOOR / "embedded").glob("*/**/*.py")}
    stubs = {path.relative_to(DOOR): path.read_text() for path in DOOR.rglob("*.pyi")}
    expected = {}
    for module in modules:
        name = ".".join(module.with_suffix("").parts).removesuffix(".__init__")
        expected[module.with_suffix(".pyi")] = f"from dino_d2.detectron2.embedded.{name} import *\n"
    assert stubs == expected


@pytest.mark.slow
@pytest.mark.large_memory
def test_a_users_program_has_types_and_its_mistakes_are_found(tmp_path):
    """What mypy finds in the package itself is left out here."""
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    options = ["--strict", "--follow-imports=silent", "--config-file=", "--cache-dir=cache"]
    command = [sys.executable, "-m", "mypy", *options, "program.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, env={"MYPYPATH": str(ROOT)}, capture_output=True, text=True)
    found = [(line.split(":")[0], line.rpartition("[")[2]) for line in done.stdout.splitlines() if ": error:" in line]
    codes = ["arg-type]"] * 3 + ["attr-defined]"]
    assert sorted(found) == [("wrong.py", code) for code in codes], done.stdout + done.stderr
