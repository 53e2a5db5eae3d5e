# SPDX-License-Identifier: Apache-2.0
"""Builds the op of dino_d2 and puts configs/ into the package; everything else about it is in pyproject.toml.

Two libraries: `_C` (the schema and the CPU kernels) always, `_C_cuda` (the CUDA kernels) where torch has CUDA and a
toolkit is found, or with FORCE_CUDA=1. TORCH_CUDA_ARCH_LIST chooses the GPUs. A library that the compiler cannot build
is reported once and leaves a working package: its part then runs on plain PyTorch. Missing source files are an error.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import torch
from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
ARCHS_WITHOUT_GPU = "7.5;8.0;9.0;10.0;12.0+PTX"
FORCE_CUDA = os.environ.get("FORCE_CUDA") == "1"


def find_cuda_home() -> Path | None:
    """The folder of a whole toolkit: CUDA_HOME, else the compiler wheels beside torch, else the usual places."""
    wish = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    wheels = sorted(Path(torch.__path__[0]).parent.glob("nvidia/cu[0-9]*"))
    beside_nvcc = [Path(d).resolve().parent for d in os.get_exec_path() if (Path(d) / "nvcc").exists()]
    for home in [Path(wish)] if wish else [*wheels, Path("/usr/local/cuda"), *beside_nvcc]:
        if (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists():
            return home
    return None


CUDA_HOME = find_cuda_home()
if CUDA_HOME is not None:
    os.environ["CUDA_HOME"] = str(CUDA_HOME)  # cpp_extension reads it when it is imported

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


class BuildWithConfigs(build_py):
    """Copies configs/ into the built package as dino_d2/configs; an editable install reads the checkout's."""

    def run(self):
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "dino_d2" / "configs"
            shutil.rmtree(target, ignore_errors=True)  # a renamed recipe must not survive from an earlier build
            shutil.copytree(ROOT / "configs", target, ignore=shutil.ignore_patterns("__pycache__"))


class OptionalBuild(BuildExtension):
    """Builds each library, or reports once why it could not."""

    def run(self):
        check_sources()
        super().run()

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception as error:
            if os.environ.get("DINO_D2_REQUIRE_OP") == "1":
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(
                f"\ndino_d2: {ext.name} was not built; the compiler's messages are above ({reason[:200]}).\n"
                "dino_d2 works without it: deformable attention then runs on plain PyTorch, many times slower.\n"
                "docs/install.md says what the build needs; DINO_D2_REQUIRE_OP=1 makes a failed build an error.\n",
                file=sys.stderr,
            )


def options(**compile_args: list[str]) -> dict:
    # LibTorch's stable ABI of 2.11: one build serves that and every later version.
    common = ["-O3", "-std=c++17", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    return {
        "include_dirs": [str(ROOT / "csrc")],
        "extra_compile_args": {k: common + v for k, v in compile_args.items()},
        "py_limited_api": True,
        "optional": True,
    }


def sources(pattern: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(pattern))


def check_sources() -> None:
    """End the build if a file that csrc/ includes is missing: the source is incomplete, whatever the compiler."""
    for path in ROOT.glob("csrc/**/*.*"):
        for name in re.findall(r'^#include "(.+)"', path.read_text(), re.M):
            if not any((folder / name).is_file() for folder in (path.parent, ROOT / "csrc")):
                sys.exit(f"dino_d2: csrc is incomplete: {path.relative_to(ROOT)} includes {name}, which is missing")


def cpu_extension():
    # The two warnings fire in headers that are not ours.
    flags = ["-g0", "-Wno-attributes", "-Wno-maybe-uninitialized"]
    return CppExtension("dino_d2._C", ["csrc/ms_deform_attn.cpp", *sources("csrc/cpu/*.cpp")], **options(cxx=flags))


def cuda_extension():
    if not torch.cuda.is_available():  # no GPU here whose architecture could be asked for
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHS_WITHOUT_GPU)
    extension = CUDAExtension(
        "dino_d2._C_cuda", sources("csrc/cuda/*.cu"), **options(cxx=[], nvcc=["-DUSE_CUDA", "--threads=2"])
    )
    cccl = CUDA_HOME / "include" / "cccl"
    if cccl.is_dir():  # where CUDA 13 and the compiler wheels keep these headers
        extension.include_dirs.append(str(cccl))
    extension.libraries = [name for name in extension.libraries if name != "cudart"]
    extension.extra_link_args.append(f"-l:libcudart.so.{torch.version.cuda.split('.')[0]}")  # wheels lack libcudart.so
    extension.library_dirs += [str(CUDA_HOME / "lib"), *map(str, Path(torch.__path__[0]).parent.glob("nvidia/cu*/lib"))]
    return extension


def extensions() -> list:
    if torch.version.cuda and CUDA_HOME is not None:
        return [cpu_extension(), cuda_extension()]
    if FORCE_CUDA:
        what = (
            "this torch has no CUDA" if not torch.version.cuda else "there is no toolkit: set CUDA_HOME to its folder"
        )
        sys.exit(f"FORCE_CUDA=1, but {what}")
    return [cpu_extension()]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": OptionalBuild, "build_py": BuildWithConfigs},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},  # one wheel for Python 3.10 and later
)
