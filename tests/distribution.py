# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: workers of pytest-xdist are forked from the server of `processes.py`, like all processes of the
tests, so that what they import is in memory once. `make test` has two of them."""

import shlex

import pytest

from tests.processes import python


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list) -> None:
    """Replace the Python of each worker, before it is started."""
    import execnet

    specs[:] = [execnet.XSpec(f"{spec}//id={spec.id}//python={shlex.join(python())}") for spec in specs]
