# SPDX-License-Identifier: Apache-2.0
"""The functions and classes of the engine, config and tools have Detectron2's parameters and methods."""

import importlib
import inspect

import pytest
from list_served_names import served_names

from .engines import both

PUBLIC_SPECIALS = ("__init__", "__call__", "__getitem__", "__iter__", "__len__")

#: What is left out on purpose: parameters and methods.
LEFT_OUT = {
    "detectron2.config.LazyConfig": {"load_rel", "to_py"},
}
#: These are written with other parameters that accept the same calls.
SAME_CALLS = {"CfgNode.dump", "DetectionCheckpointer.load"}

#: Modules of test_same_signatures_of_data.py.
OF_DATA = ("detectron2.data", "detectron2.evaluation", "detectron2.structures", "detectron2.utils.visualizer")
MODULES = [name for name in served_names() if not name.startswith(OF_DATA)]


@pytest.mark.parametrize("module", MODULES)
def test_signatures(module):
    real, embedded = both(module.removeprefix("detectron2."))
    different = []
    for name in served_names()[module]:
        one, other = getattr(real, name), getattr(embedded, name)
        if not callable(other) or one is other:
            continue
        left_out = LEFT_OUT.get(f"{module}.{name}", set())
        if not inspect.isclass(other):
            if parameters(one, left_out) != parameters(other, left_out):
                different.append(f"{name}{inspect.signature(one)}")
            continue
        for method in {k for k in [*dir(one), *dir(other)] if not k.startswith("_") or k in PUBLIC_SPECIALS} - left_out:
            if f"{name}.{method}" in SAME_CALLS:
                continue
            if not (hasattr(one, method) and hasattr(other, method)):
                different.append(f"{name}.{method} is in one alone")
            elif parameters(getattr(one, method), left_out) != parameters(getattr(other, method), left_out):
                different.append(f"{name}.{method}{inspect.signature(getattr(one, method))}")
    assert not different


def parameters(function, left_out: set[str]) -> list[tuple] | None:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a property, or a method of C
        return None
    return [(p.name, p.kind, p.default) for p in found if p.name not in left_out]


def test_what_is_left_out_is_in_detectron2():
    for name, left_out in LEFT_OUT.items():
        module, _, attribute = name.rpartition(".")
        for lacking in left_out:
            assert hasattr(getattr(importlib.import_module(module), attribute), lacking)
