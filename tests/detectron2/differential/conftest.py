# SPDX-License-Identifier: Apache-2.0
"""Everything here holds the embedded engine against a real Detectron2, in one process."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    try:
        import detectron2.config  # noqa: F401
    except ImportError as error:
        skip = pytest.mark.skip(reason=f"needs a real Detectron2 ({error})")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)
