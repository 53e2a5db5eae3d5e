# SPDX-License-Identifier: Apache-2.0
"""The op's libraries import nothing of PyTorch but its stable ABI, so that one build serves later versions too."""

import shutil
import subprocess

import pytest

from tests.paths import ROOT

LIBRARIES = sorted((ROOT / "dino_d2").glob("_C*.so"))
CXX_OF_PYTORCH = ("c10::", "at::", "torch::", "caffe2::")


@pytest.mark.skipif(not LIBRARIES, reason="the op is not built")
@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)
def test_no_symbol_of_the_cpp_api_is_imported(library):
    nm = subprocess.run(
        ["nm", "-D", "--undefined-only", "--demangle", library], capture_output=True, text=True, check=True
    )
    symbols = [line.split(maxsplit=1)[1] for line in nm.stdout.splitlines()]
    assert any(symbol.startswith(("aoti_torch_", "torch_")) for symbol in symbols)
    assert [symbol for symbol in symbols if any(name in symbol for name in CXX_OF_PYTORCH)] == []
