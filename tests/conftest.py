# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the whole suite, and how it runs: in what order, in how many processes, in how much memory.

This file imports no torch: the process that distributes the tests to workers reads it, and needs none.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.loggers import loggers_restored

pytest_plugins = ["tests.memory_limit", "tests.distribution"]

if "PYTEST_XDIST_WORKER" in os.environ:  # several processes share the cores; their child processes do so too
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# The suite runs models of many sizes: smaller caches of oneDNN than the project's own default save memory.
for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(name, "16")

# A suite in the background of a shell ignores Ctrl-C, and so would its child processes, which tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Folders and files of the tests that every version of the matrix must pass (noxfile.py).
CORE = ("layers", "modeling", "speed", "meta_arch", "parity", "data", "test_denoising.py", "engine/test_resume.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(folder) and item.path.relative_to(folder).as_posix().startswith(CORE):
            item.add_marker(pytest.mark.core)


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
