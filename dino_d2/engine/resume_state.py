# SPDX-License-Identifier: Apache-2.0
"""Describes faults in the saved states of an optimizer, a data loader, a loss scale and random generators."""

import copy
import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from dino_d2.detectron2.utils import comm

from .building import FAULTS, fault
from .random_state import preserved_random_state, set_random_state

#: Batches that an iteration can have taken at most; loading counts through the batches one by one.
MAX_ACCUMULATE = 10_000


def optimizer_faults(
    groups: list[dict], states: dict[int, dict], optimizer: torch.optim.Optimizer, iteration: int
) -> tuple[list[str], list[str]]:
    """Compare the saved state of an optimizer with the state of ``optimizer``.

    Args:
        groups, states: of the checkpoint; groups of the same sizes as the optimizer's.
        optimizer: of the config.
        iteration: the last one done.

    Returns:
        descriptions of (signs of another kind of optimizer, signs of damage).
    """
    name = type(optimizer).__name__
    kinds: list[str] = []
    damages: list[str] = []
    filled = _settings_with_defaults(optimizer)
    for number, (old, new) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        if not new["params"]:
            continue
        lacking = sorted(new.keys() - old.keys() - filled)
        if lacking:
            kinds.append(f"its optimizer has no {', '.join(lacking)}, so it is no {name}, which the config has")
            continue
        try:
            expected = kept_by(optimizer, {**new, **old, "params": new["params"]})
        except FAULTS as error:
            damages.append(f"group {number} of its optimizer has settings that cannot be used: {fault(error)}")
            continue
        for index, parameter in zip(old["params"], new["params"], strict=True):
            state = states.get(index)
            if not state:
                continue
            if state.keys() != expected.keys():
                there, here = (", ".join(sorted(map(str, some))) or "nothing" for some in (state, expected))
                kinds.append(f"its optimizer keeps {there} of parameter {index}, and the config's {name} keeps {here}")
                continue
            damages += [
                f"the optimizer's {key} of parameter {index} is {_shown(value)}"
                for key, value in state.items()
                if not _fits(key, value, expected[key], parameter, iteration)
            ]
    return kinds, damages


def kept_by(optimizer: torch.optim.Optimizer, group: dict) -> dict[str, Any]:
    """The state that an optimizer with these settings keeps for a parameter, found by a step on a single element.

    Raises:
        Exception: of `FAULTS`, if the settings cannot be used.
    """
    first = group["params"][0]
    parameter = nn.Parameter(torch.zeros(1, dtype=first.dtype, device=first.device))
    parameter.grad = torch.zeros_like(parameter)
    probe = copy.copy(optimizer)
    probe.state = defaultdict(dict)
    probe.param_groups = [{**group, "params": [parameter]}]
    probe.step()
    return dict(probe.state[parameter])


def _settings_with_defaults(optimizer: torch.optim.Optimizer) -> set[str]:
    """Settings that loading fills in where an older version of PyTorch did not save them."""
    probe = copy.copy(optimizer)
    probe.__setstate__({"defaults": optimizer.defaults, "state": {}, "param_groups": [{"params": []}]})
    return set(probe.param_groups[0])


def _fits(key: str, value: Any, expected: Any, parameter: nn.Parameter, iteration: int) -> bool:
    if isinstance(expected, Tensor) and expected.dim():
        return isinstance(value, Tensor) and value.shape == parameter.shape and value.is_floating_point()
    if key == "step":
        if isinstance(value, Tensor) and value.numel() != 1:
            return False
        number = value.item() if isinstance(value, Tensor) else value
        return isinstance(number, int | float) and math.isfinite(number) and 0 <= number <= iteration + 1
    return isinstance(value, Tensor) == isinstance(expected, Tensor)


def _shown(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)[:60]
    return repr(value.item()) if value.numel() == 1 else f"a tensor of shape {tuple(value.shape)} and {value.dtype}"


def loader_faults(state: Any, loader: Any, iteration: int) -> list[str]:
    """Faults in the state of a data loader; a missing state is none, since loading warns of it.

    Args:
        state: of the checkpoint.
        loader: of the config.
        iteration: the last one done.
    """
    if not state or not hasattr(loader, "state_dict"):
        return []
    own = loader.state_dict()
    if not isinstance(state, dict):
        return [f"the state of its data loader is {_shown(state)}"]
    for key, value in own.items():
        if key not in state:
            return [f"the state of its data loader has no {key}"]
        if type(state[key]) is not type(value) or (type(value) is int and state[key] < 0):
            return [f"{key} of its data loader is {_shown(state[key])}"]
    if state.get("batches", 0) > (iteration + 1) * MAX_ACCUMULATE:
        return [f"its data loader has taken {state['batches']} batches in {iteration + 1} iterations"]
    return []


def scaler_faults(state: Any, scaler: torch.amp.GradScaler) -> list[str]:
    """Faults in the state of the scale of the loss; a missing state is none, since loading warns of it."""
    if not state or not scaler.is_enabled():
        return []
    for key in scaler.state_dict():
        value = state.get(key) if isinstance(state, dict) else None
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            return [f"{key} of its loss scale is {_shown(value)}"]
    return []


def random_state_faults(states: Any) -> list[str]:
    """Faults in the RNG states of all ranks; a missing list is none, since restoring warns of it."""
    if states is None:
        return []
    if not isinstance(states, list):
        return [f"the RNG states of its ranks are {_shown(states)}"]
    if len(states) != comm.get_world_size():
        return []  # they are not used; restoring warns of it
    try:
        with preserved_random_state():
            set_random_state(states[comm.get_rank()])
    except FAULTS as error:
        return [f"the RNG state of rank {comm.get_rank()} cannot be restored: {fault(error)}"]
    return []
