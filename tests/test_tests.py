# SPDX-License-Identifier: Apache-2.0
"""Tests mirror the code: a reader of a model file finds its test under the same path and name."""

import pytest

from tests.paths import ROOT

#: Rooms whose every file has a test of its name.
ROOMS = ("meta_arch", "modeling", "speed")
FILES = [
    path.relative_to(ROOT / "dino_d2")
    for room in ROOMS
    for path in sorted((ROOT / "dino_d2" / room).rglob("*.py"))
    if path.name != "__init__.py"
]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_has_a_test_of_its_name(file):
    assert (ROOT / "tests" / file.parent / f"test_{file.name}").is_file()
