"""Fixtures of the whole suite, and how it runs: in what order, in how many processes, in how much memory.

This file imports no torch: the process that distributes the tests to workers reads it, and needs none.
"""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.loggers import loggers_restored

pytest_plugins = ["tests.memory_limit", "tests.distribution"]

# oneDNN keeps what it compiles for each shape, 1024 of them by default: some GB after a suite of many shapes.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; their child processes do so too
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Tests may set up loggers, as runs do: the next test finds them as they were."""
    with loggers_restored():
        return (yield)


@pytest.fixture
def make_detector() -> Callable:
    """``tests.small_models.make_detector``."""
    from tests.small_models import make_detector

    return make_detector


@pytest.fixture
def make_model() -> Callable:
    """``tests.small_models.make_model``."""
    from tests.small_models import make_model

    return make_model


@pytest.fixture
def make_input() -> Callable:
    """``tests.small_models.make_input``."""
    from tests.small_models import make_input

    return make_input
