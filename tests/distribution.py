"""A pytest plugin: what runs in which process, where pytest-xdist distributes the tests (`make test` does)."""

import shlex
import sys

import pytest

from tests import processes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each file goes to one worker, with its fixtures; what names an `xdist_group` goes to one worker together."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list) -> None:
    """Workers are forked from the server, too: they share the memory of what they import."""
    if processes.can_fork():
        import execnet

        processes.start_server()
        python = shlex.join([sys.executable, "-S", processes.__file__])
        specs[:] = [execnet.XSpec(f"{spec}//python={python}") for spec in specs]
