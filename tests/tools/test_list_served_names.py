# SPDX-License-Identifier: Apache-2.0
"""The table of served names in docs/detectron2.md."""

import importlib

import pytest
from list_served_names import PAGE, page_with_table, served_names


def test_the_page_has_the_names_that_are_served():
    page = PAGE.read_text()
    assert page_with_table(page) == page, "run: python tools/list_served_names.py --write"


def test_names_of_all_kinds_stand_where_they_are_served_first():
    served = served_names()
    assert "EvalHook" in served["detectron2.engine"]
    assert "DEFAULT_TIMEOUT" in served["detectron2.engine"]
    assert "PeriodicCheckpointer" in served["detectron2.checkpoint"]  # of fvcore
    assert "detectron2.engine.hooks" not in served
    assert served["detectron2.utils.file_io"] == ["PathManager"]
    assert "setup_logger" in served["detectron2.utils.logger"]
    assert not any("nn" in names or "Any" in names for names in served.values())


def test_detectron2_has_every_name_that_is_served():
    try:
        importlib.import_module("detectron2.config")
    except ImportError:
        pytest.skip("needs a real Detectron2")
    for module, names in served_names().items():
        for name in names:
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
