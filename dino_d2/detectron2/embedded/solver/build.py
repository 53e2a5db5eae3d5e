# SPDX-License-Identifier: Apache-2.0
"""Parameter groups with their learning rates and weight decays, as in `detectron2.solver.build`."""

from collections.abc import Callable, Mapping
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
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by their hyperparameters, for a PyTorch optimiser.

    Args:
        base_lr, weight_decay: for all parameters; by default the optimiser's.
        weight_decay_norm: for the parameters of normalisation layers.
        bias_lr_factor: multiplies the learning rate of parameters called "bias".
        weight_decay_bias: for parameters called "bias".
        lr_factor_func: maps a parameter's full name to a factor of its learning rate.
        overrides: maps the last part of a parameter's name to hyperparameters, which take precedence.

    Raises:
        ValueError: a factor is given without `base_lr`, or biases have both overrides and separate arguments.
    """
    overrides = dict(overrides or {})
    if base_lr is None and lr_factor_func is not None:
        raise ValueError("lr_factor_func multiplies base_lr, which is not given.")
    of_biases: dict[str, float] = {}
    if bias_lr_factor is not None and bias_lr_factor != 1.0:
        if base_lr is None:
            raise ValueError("bias_lr_factor multiplies base_lr, which is not given.")
        of_biases["lr"] = base_lr * bias_lr_factor
    if weight_decay_bias is not None:
        of_biases["weight_decay"] = weight_decay_bias
    if of_biases and "bias" in overrides:
        raise ValueError("overrides has 'bias', so bias_lr_factor and weight_decay_bias cannot be given too.")
    if of_biases:
        overrides["bias"] = of_biases
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
            values.update(overrides.get(name, {}))
            # few large groups instead of one per parameter: optimisers update a group in one operation
            groups.setdefault(tuple(values.items()), []).append(parameter)
    return [{**dict(values), "params": parameters} for values, parameters in groups.items()]
