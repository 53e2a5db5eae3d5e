# SPDX-License-Identifier: Apache-2.0
"""Which engine the door opens to, and what it says when it cannot. Each case is a process of its own."""

import importlib.metadata
import inspect
import json
import os
import pickle
import pydoc
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from dino_d2.detectron2 import ENGINE
from dino_d2.detectron2.utils.registry import locate
from tests.paths import ROOT


def run(code: str, engine: str | None = None, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k not in ("DINO_D2_ENGINE", "PYTHONPATH")}
    if engine is not None:
        environment["DINO_D2_ENGINE"] = engine
    environment["PYTHONPATH"] = os.pathsep.join(map(str, ([path] if path else []) + [ROOT]))
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=environment, cwd=path, capture_output=True, text=True, check=False)


def fake_detectron2(folder: Path, content: str) -> Path:
    package = folder / "detectron2"
    package.mkdir()
    (package / "__init__.py").write_text(content)
    return folder


def has_real_detectron2() -> bool:
    try:
        importlib.metadata.distribution("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def test_one_module_with_two_names():
    import dino_d2.detectron2.structures.boxes as by_door
    from dino_d2.detectron2 import structures
    from dino_d2.detectron2.structures import Boxes

    assert by_door.Boxes is structures.Boxes is Boxes
    served = {"detectron2": "detectron2", "embedded": "dino_d2.detectron2.embedded"}[ENGINE]
    assert by_door.__name__ == f"{served}.structures.boxes"
    assert sys.modules["dino_d2.detectron2.structures.boxes"] is sys.modules[by_door.__name__]
    assert by_door.__spec__.name == by_door.__name__


def test_embedded_is_importable_beside_whatever_serves():
    import dino_d2.detectron2.embedded.structures as embedded
    from dino_d2.detectron2.structures import Boxes

    assert (embedded.Boxes is Boxes) == (ENGINE == "embedded")


@pytest.mark.parametrize("engine", [None, "", "auto"])
def test_auto_takes_detectron2_where_there_is_one(engine, tmp_path):
    path = fake_detectron2(tmp_path, "marker = 7")
    result = run("from dino_d2.detectron2 import ENGINE; print(ENGINE)", engine, path)
    assert result.stdout.split() == ["detectron2"], result.stderr


@pytest.mark.skipif(has_real_detectron2(), reason="a Detectron2 is installed")
def test_auto_takes_embedded_where_there_is_none(tmp_path):
    (tmp_path / "detectron2").mkdir()  # a folder of this name is no Detectron2
    code = "from dino_d2.detectron2 import ENGINE; import dino_d2.detectron2.config as c; print(ENGINE, c.__name__)"
    result = run(code, path=tmp_path)
    assert result.stdout.split() == ["embedded", "dino_d2.detectron2.embedded.config"], result.stderr
    result = run("import dino_d2.detectron2", "detectron2")
    assert "ImportError: DINO_D2_ENGINE=detectron2, but no Detectron2 is installed" in result.stderr


def test_embedded_on_request_even_beside_detectron2(tmp_path):
    path = fake_detectron2(tmp_path, "raise RuntimeError('must not be imported')")
    result = run("import dino_d2.detectron2.config as c; print(c.__name__)", "embedded", path)
    assert result.stdout.split() == ["dino_d2.detectron2.embedded.config"], result.stderr


@pytest.mark.parametrize("engine", ["auto", "detectron2"])
@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("raise ImportError('_C.so: undefined symbol: foo')", "ImportError: _C.so: undefined symbol: foo"),
        ("import pkg_resources_of_old", "ModuleNotFoundError: No module named 'pkg_resources_of_old'"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
    ],
)
def test_broken_detectron2_is_an_error_with_cause_and_way_out(tmp_path, engine, content, cause):
    path = fake_detectron2(tmp_path, content)
    result = run("import dino_d2.detectron2.config", engine, path)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: Detectron2 is installed but 'detectron2.config' cannot be imported"), last
    assert cause in last
    assert "DINO_D2_ENGINE=embedded" in last


@pytest.mark.skipif(
    (Path(sysconfig.get_path("purelib")) / "detectron2").is_dir(), reason="no folder hides a package in site-packages"
)
def test_installed_but_hidden_by_a_folder(tmp_path):
    (tmp_path / "detectron2").mkdir()
    installed = tmp_path / "detectron2-0.6.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: detectron2\nVersion: 0.6\n")
    result = run("import dino_d2.detectron2", "auto", tmp_path)
    assert f"Detectron2 is installed but hidden by the folder {tmp_path}/detectron2" in result.stderr


def test_unknown_engine():
    result = run("import dino_d2.detectron2", "mmdet")
    assert "ValueError: DINO_D2_ENGINE='mmdet' is unknown: use auto, detectron2 or embedded." in result.stderr


LACKED = {
    "import dino_d2.detectron2.projects": "detectron2.projects",
    "import dino_d2.detectron2.projects.point_rend as p": "detectron2.projects",
    "from dino_d2.detectron2 import model_zoo": "detectron2.model_zoo",
    "from dino_d2.detectron2.engine import hooks, DefaultTrainer": "detectron2.engine.DefaultTrainer",
    "from dino_d2.detectron2.engine.defaults import DefaultTrainer": "detectron2.engine.defaults.DefaultTrainer",
    "from dino_d2.detectron2.utils.analysis import flop_count_operators": "detectron2.utils.analysis",
    "from dino_d2.detectron2.data import transforms as T; T.RandomFoo": "detectron2.data.transforms.RandomFoo",
    "import dino_d2.detectron2.engine.hooks as h; h.TorchProfiler": "detectron2.engine.hooks.TorchProfiler",
    "from dino_d2.detectron2.config import LazyConfig; LazyConfig.to_py": "detectron2.config.LazyConfig.to_py",
    "import dino_d2.detectron2 as d; d.model_zoo": "detectron2.model_zoo",
    "from dino_d2.detectron2.utils.registry import locate; locate('detectron2.model_zoo.get')":
        "detectron2.model_zoo.get",
}  # fmt: skip


def test_whatever_the_embedded_engine_lacks_is_said_and_named():
    code = "import json, sys\nfound = {}\n"
    for form in LACKED:
        code += f"try: exec({form!r}, {{}})\nexcept Exception as error: found[{form!r}] = repr(error)\n"
    result = run(f"{code}json.dump(found, sys.stdout)", "embedded")
    assert not result.stderr
    found = json.loads(result.stdout)
    for form, name in LACKED.items():
        message = found.get(form, "no error")
        assert f"The embedded engine does not have '{name}'" in message, f"{form}: {message}"
        assert "needs Detectron2 itself" in message
        assert "docs/detectron2.md" in message
        kind = "AttributeError" if ";" in form and "locate" not in form else "NotServedError|ImportError"
        assert re.match(kind, message)


def test_what_the_embedded_engine_lacks_can_be_asked_for():
    from dino_d2.detectron2.embedded.data import transforms
    from dino_d2.detectron2.embedded.engine import hooks

    for module in (transforms, hooks):
        assert not hasattr(module, "RandomFoo")
        assert getattr(module, "RandomFoo", 3) == 3
        assert not hasattr(module, "__wrapped__")
    assert inspect.getmodule(hooks.EvalHook) is hooks
    assert pickle.loads(pickle.dumps(hooks.EvalHook)) is hooks.EvalHook


def test_a_served_class_is_no_missing_module():
    name = "dino_d2.detectron2.embedded.structures.Boxes"
    assert pydoc.locate(name) is locate("detectron2.structures.Boxes" if ENGINE == "embedded" else name)


def test_a_module_that_detectron2_lacks(tmp_path):
    result = run("import dino_d2.detectron2.no_such", path=fake_detectron2(tmp_path, ""))
    assert "ModuleNotFoundError: There is no module 'detectron2.no_such'" in result.stderr
