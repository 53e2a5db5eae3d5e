"""A pytest plugin: which tests share a worker, where pytest-xdist distributes them (`make test` does)."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each file goes to one worker, with its fixtures; files that name one `xdist_group` go to the same."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.location[0]))
