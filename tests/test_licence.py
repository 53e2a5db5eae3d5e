# SPDX-License-Identifier: Apache-2.0
"""Every source file names the licence."""

import pytest

from tests.paths import ROOT

SOURCES = (
    "*.py",
    "dino_d2/**/*.py",
    "configs/**/*.py",
    "tools/*.py",
    "benchmarks/*.py",
    "demo/*.py",
    "tests/**/*.py",
    "csrc/**/*.[ch]*",
)
FILES = sorted({path for pattern in SOURCES for path in ROOT.glob(pattern) if path.stat().st_size})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_first_lines_name_the_licence(path):
    first = path.read_text(encoding="utf-8").splitlines()[:2]
    assert any(line.endswith("SPDX-License-Identifier: Apache-2.0") for line in first)
