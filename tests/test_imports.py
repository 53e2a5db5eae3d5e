# SPDX-License-Identifier: Apache-2.0
"""The direction of imports between the rooms of the package, read from the source without importing it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = "dino_d2"

#: Rooms (folders or single files) from the lowest floor to the highest. A room imports from lower floors only.
FLOORS = (
    ("errors", "files", "signals"),
    ("bit_depth",),
    ("detectron2",),
    ("layers",),
    ("denoising",),
    ("modeling",),
    ("speed",),
    ("meta_arch",),
    ("data", "recipes"),
    ("checkpoint", "evaluation"),
    ("visualize",),
    ("engine",),
    ("predict",),
    ("report",),
    ("model_zoo", "predictor"),
    ("__init__",),
    ("cli",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

#: The door to Detectron2. It is open to the meta-architecture and everything above that.
DOOR = "detectron2"

#: Files that only pass on the names of other rooms, so that old import paths stay valid.
PASS_ON = {"modeling.__init__"}

#: Detectron2's Visualizer, which the embedded engine draws with this project's pictures. Only scripts import it.
VISUALIZER = "detectron2.embedded.utils.visualizer"


def module_of(path: Path) -> str:
    """``dino_d2/data/mapper.py`` -> ``data.mapper``."""
    return ".".join(path.relative_to(ROOT / PACKAGE).with_suffix("").parts)


def room_of(module: str) -> str:
    """The room of a module or of a name in it; names of the package itself, such as ``__version__``, are its own."""
    first = module.split(".")[0]
    return first if first in FLOOR_OF else "__init__"


def floor_of(room: str) -> int:
    return FLOOR_OF[room]


def imports_of(source: str, module: str) -> Iterator[str]:
    """What a module imports of this package, at any place in it, as ``data.mapper.DetrDatasetMapper``."""
    parents = [PACKAGE, *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}."))


def fault(module: str, imported: str) -> str | None:
    """Why a module must not import something of this package; None where it may."""
    room, other = room_of(module), room_of(imported)
    if module.endswith(".__main__") and floor_of(other) < FLOOR_OF["engine"]:  # a program, which stands above its room
        return None
    if room == other or module in PASS_ON or (module, other) == (VISUALIZER, "visualize"):
        return None
    if room == "denoising":
        return "denoising needs PyTorch alone"
    if other == DOOR and floor_of(room) < FLOOR_OF["meta_arch"]:
        return "the core does not know Detectron2"
    if floor_of(other) >= floor_of(room):
        return f"{other} is not below {room}"
    return None


MODULES = {module_of(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


@pytest.mark.parametrize("room", sorted({module.split(".")[0] for module in MODULES}))
def test_a_room_imports_from_lower_floors_only(room):
    faults = []
    for module, path in MODULES.items():
        if module.split(".")[0] == room:
            faults += [
                f"{path.relative_to(ROOT)} imports {imported}: {why}"
                for imported in imports_of(path.read_text(encoding="utf-8"), module)
                if (why := fault(module, imported))
            ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("room", ["data", "evaluation", "visualize"])
def test_data_evaluation_and_pictures_do_not_need_the_engine(room):
    assert floor_of(room) < floor_of("engine")
    for module, path in MODULES.items():
        if module.split(".")[0] == room:
            assert "engine" not in {room_of(name) for name in imports_of(path.read_text(encoding="utf-8"), module)}


def test_every_room_has_a_floor():
    assert {module.split(".")[0] for module in MODULES} == set(FLOOR_OF)


def test_nothing_but_scripts_imports_the_visualizer():
    for module, path in MODULES.items():
        names = imports_of(path.read_text(encoding="utf-8"), module)
        assert not [name for name in names if "utils.visualizer" in name], module


def test_imports_are_found_in_every_form():
    source = """
import dino_d2.engine.run
from dino_d2.engine import launch
from ..engine.resume import resume
from . import boxes

def f():
    from dino_d2 import predictor
"""
    found = set(imports_of(source, "visualize.style"))
    assert found == {"engine.run", "engine.launch", "engine.resume.resume", "visualize.boxes", "predictor"}


@pytest.mark.parametrize(
    ("module", "imported", "words"),
    [
        ("errors", "files.write_atomically", "not below"),
        ("layers.mlp", "errors.UserError", None),
        ("layers.mlp", "modeling.matcher", "not below"),
        ("denoising", "errors.UserError", "PyTorch alone"),
        ("modeling.matcher", "detectron2.structures.Boxes", "does not know Detectron2"),
        ("meta_arch.detr", "detectron2.structures.Boxes", None),
        ("modeling.detector", "meta_arch.detr.DETR", "not below"),
        ("meta_arch.detr", "modeling.detector.Detector", None),
        ("evaluation.history", "engine.checkpointer", "not below"),
        ("detectron2.embedded.data.catalog", "data.mapper", "not below"),
        ("predict.recipe", "engine.config.read_config", None),
        ("predict.tiles", "model_zoo.build_model", "not below"),
    ],
)
def test_the_rule_by_example(module, imported, words):
    found = fault(module, imported)
    assert found is None if words is None else words in found
