# SPDX-License-Identifier: Apache-2.0
"""The source distribution and the wheel, installed where no checkout is, train and resume."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.slow

SHAPES = [f"+dataloader.{split}.dataset.names.{key}" for split in ("train", "test") for key in ("train=8", "val=2")]
TRAINING = [
    *SHAPES,
    "+dataloader.train.dataset.names.size=64",
    "+dataloader.test.dataset.names.size=64",
    "dataloader.train.total_batch_size=2",
    "dataloader.train.num_workers=0",
    "model.detector.encoder.num_layers=1",
    "model.detector.decoder.num_layers=1",
    "train.device=cpu",
    "train.log_period=1",
    "train.num_pictures=1",
]
CHECKS = """
import sys
from pathlib import Path

import torch

import dino_d2
from dino_d2 import Predictor, build_model, get_config
from dino_d2.layers.ms_deform_attn import op_is_built

package = Path(dino_d2.__file__).parent
assert package.is_relative_to(sys.prefix), package
assert op_is_built("cpu")
assert torch.ops.dino_d2.ms_deform_attn.default
assert get_config("dino/dino_r50_4scale_12ep.py").train.output_dir == "./output/dino_r50_4scale_12ep"
assert (package / "py.typed").is_file()
assert (package / "detectron2/config/__init__.pyi").is_file()
run = "output/dino_tiny_shapes/"
build_model(run + "config.yaml", run + "model_final.pth")
print(len(Predictor(run + "config.yaml", run + "model_final.pth", device="cpu")("datasets/shapes/val/000001.png")))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The command's output; nothing of this checkout is on its path, and no CUDA kernels are compiled."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DINO_D2_REFERENCE_OP")}
    clean |= {"OMP_NUM_THREADS": "1", "CUDA_HOME": str(cwd / "no_cuda"), **environment}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """Built from a copy of the checkout, so that the build leaves nothing here and takes nothing built here."""
    source = tmp_path_factory.mktemp("source") / "dino_d2"
    built = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__")
    ours = {"build", "dist", "output", "datasets", "tests"}  # at the top level; all but tests/ are ignored by git

    def left_out(folder: str, names: list[str]) -> set[str]:
        top = {name for name in names if name in ours or name.startswith(".")} if Path(folder) == ROOT else set()
        return built(folder, names) | top

    shutil.copytree(ROOT, source, ignore=left_out)
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_sdist({str(folder)!r})", cwd=source)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """Built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-cache-dir", "-w", folder]
    run(*pip, sdist, cwd=folder)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(params=["sdist", "wheel"])
def installed(request, tmp_path) -> Path:
    """The bin folder of a fresh environment with the package; dependencies come from the environment of the tests.

    A path in a .pth file is searched after the environment's own packages, and .pth files in it are not read: the
    editable install of this checkout stays out of sight.
    """
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    paths = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "--no-build-isolation"]
    run(*pip, "--no-deps", "--no-cache-dir", request.getfixturevalue(request.param), cwd=tmp_path)
    return environment / "bin"


@pytest.mark.large_memory
@pytest.mark.timeout(1800)
def test_an_installed_package_trains_resumes_and_predicts(installed, tmp_path):
    place = tmp_path / "empty"
    place.mkdir()
    train = [installed / "dino_d2", "train", "--config-file", "dino/dino_tiny_shapes.py"]
    run(*train, *TRAINING, "train.max_iter=10", "train.checkpointer.period=5", cwd=place)
    metrics = place / "output" / "dino_tiny_shapes" / "metrics.json"
    assert '"iteration": 9' in metrics.read_text()
    run(*train, "--resume", *TRAINING, "train.max_iter=12", "train.checkpointer.period=5", cwd=place)
    assert '"iteration": 11' in metrics.read_text()
    assert int(run(installed / "python", "-c", CHECKS, cwd=place).split()[-1]) > 0


def test_the_wheel_serves_every_python_and_holds_the_recipes(wheel):
    assert "-cp310-abi3-" in wheel.name
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {f"dino_d2/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.py")}
    assert recipes <= names
    assert {"dino_d2/_C.abi3.so", "dino_d2/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "configs/", "tools/")) for name in names)


@pytest.mark.large_memory
def test_a_source_without_headers_is_refused(sdist, tmp_path):
    shutil.unpack_archive(sdist, tmp_path)
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (source / "csrc" / "arguments.h").unlink()
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-cache-dir", "-w", tmp_path]
    with pytest.raises(AssertionError, match=r"csrc is incomplete: .* includes arguments\.h, which is missing"):
        run(*pip, source, cwd=tmp_path)
