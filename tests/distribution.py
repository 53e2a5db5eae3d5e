"""A pytest plugin: workers of pytest-xdist are forked from the server of `processes.py`, like all processes of the
tests, so that what they import is in memory once. `make test` has two of them."""

import shlex
import sys

import pytest

from tests import processes


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list) -> None:
    """Replace the Python of each worker, before it is started."""
    if processes.can_fork():
        import execnet

        processes.start_server()
        python = shlex.join([sys.executable, "-S", processes.__file__])
        specs[:] = [execnet.XSpec(f"{spec}//id={spec.id}//python={python}") for spec in specs]
