# SPDX-License-Identifier: Apache-2.0
"""Every function and class of these modules takes Detectron2's arguments, with Detectron2's defaults."""

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest

from .engines import both

MODULES = (
    "data.build",
    "data.catalog",
    "data.common",
    "data.dataset_mapper",
    "data.datasets.coco",
    "data.detection_utils",
    "data.samplers.distributed_sampler",
    "data.transforms.augmentation",
    "data.transforms.augmentation_impl",
    "data.transforms.transform",
    "evaluation.coco_evaluation",
    "evaluation.evaluator",
    "evaluation.testing",
    "structures.boxes",
    "structures.instances",
    "utils.visualizer",
)
#: Arguments that stay in **kwargs, on their way to DataLoader.
PASSED_ON = {"build_batch_data_loader": {"persistent_workers", "pin_memory"}}


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            yield name, value


def parameters(function: Callable, left_out: set[str] = frozenset()) -> list[tuple]:
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, repr(p.default)) for p in found if p.name not in left_out]


@pytest.mark.parametrize("module", MODULES)
def test_same_signatures(module):
    real, embedded = both(module)
    for name, served in public(embedded):
        original = getattr(real, name)
        if inspect.isfunction(served):
            assert parameters(served) == parameters(original, PASSED_ON.get(name, set())), name
            continue
        for member, method in inspect.getmembers(
            served, lambda value: inspect.isfunction(value) or inspect.ismethod(value)
        ):
            if not member.startswith("_") or member == "__init__":
                assert parameters(method) == parameters(getattr(original, member)), f"{name}.{member}"
