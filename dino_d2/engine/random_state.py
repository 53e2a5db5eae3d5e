# SPDX-License-Identifier: Apache-2.0
"""Saving, restoring and preserving the RNG state of a process."""

import contextlib
import logging
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dino_d2.detectron2.engine import HookBase
from dino_d2.detectron2.utils import comm

logger = logging.getLogger(__name__)

# Detectron2's augmentations, and with them all code that comes from there, draw from NumPy's global generator.
# ruff: noqa: NPY002


def random_state() -> dict[str, Any]:
    """RNG states of Python, NumPy and torch, as tensors and plain values.

    "cuda" is the state of this process's device, present only if CUDA is in use.
    """
    numpy_state = np.random.get_state(legacy=True)
    assert isinstance(numpy_state, tuple)
    _, keys, *numbers = numpy_state
    state = {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(keys.astype(np.int64)), *numbers),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the RNG states that :func:`random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, *numbers = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *numbers))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Random numbers drawn inside this context do not change the RNG state outside."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


class RestoreRandomState(HookBase):
    """Restores each rank's RNG state right before the first iteration, so it must be the last hook.

    Args:
        states: one per rank, from a checkpoint; None for checkpoints of other programs, which have none.
    """

    def __init__(self, states: list[dict[str, Any]] | None):
        self.states = states

    def before_train(self) -> None:
        states = self.states or []
        written, ranks = len(states), comm.get_world_size()
        if written == ranks:
            set_random_state(states[comm.get_rank()])
        else:
            logger.warning(
                "The checkpoint holds RNG state for %d ranks; this run has %d. They are seeded again, so the run "
                "does not continue exactly where it stopped.",
                written,
                ranks,
            )
