# SPDX-License-Identifier: Apache-2.0
"""Finds reference vectors and hands each to the tests of its kind.

pytest tests/parity                           the vectors of the project
pytest tests/parity --reference-dir DIR       every *.npz below DIR, found by its content
pytest tests/parity -v                        with the largest deviations in the end
"""

from pathlib import Path

import pytest
import torch

from tests import paths

from .compare import Comparison
from .vectors import Vector, forget_weights

PROJECT_VECTORS = paths.VECTORS / "reference"
DEVIATIONS = pytest.StashKey[dict]()
VECTORS = pytest.StashKey[list]()
KINDS = pytest.StashKey[set]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reference-dir", help="folder of reference vectors to run in place of the project's")
    parser.addoption("--deviations", action="store_true", help="print the largest deviation of each vector")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[DEVIATIONS] = {}


def find_vectors(config: pytest.Config) -> list[Vector]:
    if VECTORS not in config.stash:
        folder = Path(config.getoption("--reference-dir", default=None) or PROJECT_VECTORS)
        paths = sorted(folder.rglob("*.npz"))
        assert paths, f"no *.npz below {folder}"
        config.stash[VECTORS] = [Vector(path) for path in paths]
    return config.stash[VECTORS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vector" not in metafunc.fixturenames:
        return
    vectors = find_vectors(metafunc.config)
    kinds = {getattr(metafunc.module, "KIND", None), *getattr(metafunc.module, "SYSTEMS", ())} - {None}
    if kinds:
        chosen = [v for v in vectors if kinds & {v.kind, v.system}]
    else:  # the module of the kinds that nobody tests
        known = known_kinds()
        chosen = [v for v in vectors if not known & {v.kind, v.system}]
    marks = [marks_of(v) for v in chosen]
    metafunc.parametrize(
        "vector",
        [pytest.param(v, id=v.path.stem, marks=m) for v, m in zip(chosen, marks, strict=True)],
        scope="module",  # all tests of a vector follow each other: its weights are made once
    )


def known_kinds() -> set[str]:
    """Kinds, and systems whose every kind is tested, that a test module beside this file names."""
    sources = (path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    lines = (line for source in sources for line in source.splitlines() if line.startswith(("KIND = ", "SYSTEMS = ")))
    return {name for line in lines for name in line.split('"')[1::2]}


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if vector_of(nextitem) is not vector_of(item):
        forget_weights()


def vector_of(item: pytest.Item | None) -> Vector | None:
    return item.callspec.params.get("vector") if hasattr(item, "callspec") else None


def marks_of(vector: Vector) -> list[pytest.MarkDecorator]:
    slow = vector.args.get("num_queries", 0) >= 300 and "image0" in vector
    large = str(vector.args.get("backbone")).startswith("swin_L")
    return [pytest.mark.slow] * slow + [pytest.mark.large_memory] * large


@pytest.fixture
def comparison(request: pytest.FixtureRequest) -> Comparison:
    made = Comparison()
    yield made
    request.config.stash[DEVIATIONS][request.node.name] = made.rows


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not config.getoption("--deviations", default=False):
        return
    terminalreporter.section("largest deviation, and the largest as a share of its tolerance")
    for test, rows in config.stash[DEVIATIONS].items():
        if rows:
            name, off, share = max(rows, key=lambda row: row[2])
            terminalreporter.write_line(f"{test}: {share:.3f} ({name}, {off:.2e}) of {len(rows)} comparisons")
