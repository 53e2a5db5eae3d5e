# SPDX-License-Identifier: Apache-2.0
"""The test matrix: the core of the suite on the oldest and newest versions that pyproject.toml promises.

    make test-matrix                          all sessions whose Python is on this machine
    make test-matrix SESSIONS="core(2.11)"    one of them

Sessions take the newest of what they do not name; requirements/lock.txt does not apply to them.
"""

import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["core", "oldest", "python", "abi"]

#: PyTorch and the torchvision built for it.
TORCH = {"2.11": ("2.11.0", "0.26.0"), "2.14": ("2.14.1", "0.29.1"), "2.15": ("2.15.0", "0.29.2")}
OLDEST = ("numpy==2.0.*", "timm==1.0.31", "omegaconf==2.3.0", "pillow==10.3.*")
PYTEST = ("-m", "core and not slow", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")


NOT_COPIED = {".git", ".venv", ".nox", "build", "output", "datasets"}  # at the top of the checkout


def left_out(folder: str, names: list[str]) -> set[str]:
    """What a copy of the checkout does without: results, environments and libraries built for another PyTorch."""
    at_the_top = NOT_COPIED if Path(folder) == Path(__file__).parent else set()
    return {name for name in names if name in at_the_top or name == "__pycache__" or name.endswith(".so")}


def install(session: nox.Session, torch: str, *others: str) -> None:
    """PyTorch first, then a copy of the project, whose op is built against it, so that yours stays as it is."""
    copy = Path(session.create_tmp()) / "dino_d2"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(Path(__file__).parent, copy, ignore=left_out)
    session.chdir(copy)
    version, vision = TORCH[torch]
    session.install("--quiet", "setuptools>=77", "wheel", "ninja", f"torch=={version}", f"torchvision=={vision}")
    session.install(
        "--quiet",
        "--no-build-isolation",
        f"torch=={version}",
        f"torchvision=={vision}",
        *others,
        "--editable",
        ".[dev]",
    )


def run_core(session: nox.Session) -> None:
    """The tests marked core: op, layers, modelling, parity, denoising, data and resume."""
    session.run("python", "-m", "pytest", "tests", *PYTEST)


@nox.session(python="3.11")
@nox.parametrize("torch", list(TORCH), ids=list(TORCH))
def core(session: nox.Session, torch: str) -> None:
    """Each PyTorch with the newest of everything else."""
    install(session, torch)
    run_core(session)


@nox.session(python="3.11")
def oldest(session: nox.Session) -> None:
    """The oldest PyTorch with the oldest of everything else."""
    install(session, "2.11", *OLDEST)
    run_core(session)


@nox.session(python=["3.10", "3.13"])
def python(session: nox.Session) -> None:
    """The oldest and a newer Python; PyTorch 2.15 has no wheels for Python 3.10."""
    install(session, "2.11" if session.python == "3.10" else "2.15")
    run_core(session)


@nox.session(python="3.11")
def abi(session: nox.Session) -> None:
    """The op built against the oldest PyTorch, used with the newest (LibTorch's stable ABI)."""
    install(session, "2.11")
    version, vision = TORCH["2.15"]
    session.install("--quiet", f"torch=={version}", f"torchvision=={vision}")
    session.run("python", "-m", "pytest", "tests/layers", "-m", "not slow", "-q")
