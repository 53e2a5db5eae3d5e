# SPDX-License-Identifier: Apache-2.0
"""What every recipe becomes under each engine, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .describe_recipes import RECIPES, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """engine -> (folder with each recipe's config.yaml, recipe -> what it becomes)."""
    running = {}
    for engine in ("detectron2", "embedded"):
        folder = tmp_path_factory.mktemp(engine)
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"DINO_D2_ENGINE": engine, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("describe_recipes.py")), str(folder)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running[engine] = folder, subprocess.Popen(command, env=environment, text=True, **pipes)
    results = {}
    for engine, (folder, process) in running.items():
        output, errors = process.communicate()
        assert process.returncode == 0, errors
        results[engine] = folder, json.loads(output)
    return results


def difference(one, other, where: str = "") -> str | None:
    """The first place at which two descriptions differ."""
    if type(one) is type(other) and isinstance(one, dict | list):
        if isinstance(one, list):
            keys = range(max(len(one), len(other)))
        elif str(one.get("")).startswith("detectron2."):  # an engine's own object may keep what it has worked out
            keys = one.keys() & other.keys()
        else:
            keys = one.keys() | other.keys()
        for key in sorted(keys):
            try:
                found = difference(one[key], other[key], f"{where}.{key}")
            except (KeyError, IndexError):
                return f"{where}.{key} is in one alone"
            if found:
                return found
        return None
    return None if one == other else f"{where}: {one} and {other}"


@pytest.mark.parametrize("recipe", [p.relative_to(ROOT).as_posix() for p in RECIPES])
def test_instantiated_objects_are_the_same(described, recipe):
    real, embedded = (described[engine][1][recipe] for engine in ("detectron2", "embedded"))
    assert difference(real, embedded) is None
    assert len(real["model"]) > 3


@pytest.mark.parametrize("recipe", [p.stem for p in RECIPES])
def test_config_yaml_is_the_same(described, recipe):
    real, embedded = ((described[e][0] / f"{recipe}.yaml").read_text() for e in ("detectron2", "embedded"))
    assert real == embedded.replace("dino_d2.detectron2.", "detectron2.")  # through the door
