# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels under AddressSanitizer: no read or write beside a buffer, whatever the sizes."""

import shutil
import subprocess

import pytest

from tests.paths import ROOT

HERE = ROOT / "tests" / "layers" / "address_sanitizer"
COMPILE = ["g++", "-O1", "-std=c++17", "-w", "-fsanitize=address", "-fno-omit-frame-pointer", f"-I{ROOT / 'csrc'}"]


def has_address_sanitizer(folder):
    """Whether the compiler builds programs with AddressSanitizer that run here."""
    if shutil.which("g++") is None:
        return False
    source, program = folder / "empty.cpp", folder / "empty"
    source.write_text("int main() {}")
    built = subprocess.run([*COMPILE, source, "-o", program], capture_output=True).returncode == 0
    return built and subprocess.run([program], capture_output=True).returncode == 0


@pytest.mark.slow
def test_kernels_stay_inside_their_buffers(tmp_path):
    if not has_address_sanitizer(tmp_path):
        pytest.skip("needs g++ with AddressSanitizer (libasan)")
    program = tmp_path / "run_kernels"
    sources = [HERE / "run_kernels.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))]
    subprocess.run([*COMPILE, *sources, "-o", program], check=True)
    run = subprocess.run([program, "200"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[:2000]
    assert "generic" in run.stdout.split()
