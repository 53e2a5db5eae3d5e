# SPDX-License-Identifier: Apache-2.0
"""Which parameter gets which learning rate and weight decay, as in `detectron2.solver.build`."""

from collections.abc import Callable
from typing import Any

from torch import nn

_NORMS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def get_default_optimizer_params(
    model: nn.Module,
    base_lr: float | None = None,
    weight_decay: float | None = None,
    weight_decay_norm: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by their hyper-parameters, for a torch optimiser.

    Args:
        base_lr, weight_decay: for all parameters; by default the optimiser's own.
        weight_decay_norm: for the parameters of normalisation layers.
        lr_factor_func: from a parameter's full name to the factor on its learning rate.

    Raises:
        ValueError: if `lr_factor_func` is given without `base_lr`.
    """
    if base_lr is None and lr_factor_func is not None:
        raise ValueError("lr_factor_func gives factors on base_lr, which is not given.")
    given = {"lr": base_lr, "weight_decay": weight_decay}
    defaults = {name: value for name, value in given.items() if value is not None}

    groups: dict[tuple, list] = {}
    seen = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            values = dict(defaults)
            if isinstance(module, _NORMS) and weight_decay_norm is not None:
                values["weight_decay"] = weight_decay_norm
            if lr_factor_func is not None:
                values["lr"] *= lr_factor_func(f"{module_name}.{name}")
            # few large groups, not one per parameter: the optimiser updates each in one go
            groups.setdefault(tuple(values.items()), []).append(parameter)
    return [{**dict(values), "params": parameters} for values, parameters in groups.items()]
