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
    bias_lr_factor: float | None = 1.0,
    weight_decay_bias: float | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
    overrides: dict[str, dict[str, float]] | None = None,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by their hyper-parameters, for a torch optimiser.

    Args:
        base_lr, weight_decay: for all parameters; by default the optimiser's own.
        weight_decay_norm: for the parameters of normalisation layers.
        bias_lr_factor: factor on `base_lr` for parameters called "bias".
        weight_decay_bias: for parameters called "bias".
        lr_factor_func: from a parameter's full name to the factor on its learning rate.
        overrides: from a parameter's own name, such as "bias", to hyper-parameters that win over all else.

    Raises:
        ValueError: if a factor is given without `base_lr`, or "bias" is overridden twice.
    """
    overrides = dict(overrides or {})
    scales_bias = bias_lr_factor is not None and bias_lr_factor != 1.0
    if base_lr is None and (scales_bias or lr_factor_func is not None):
        raise ValueError("bias_lr_factor and lr_factor_func are factors on base_lr, which is not given.")
    bias = {"lr": base_lr * bias_lr_factor} if scales_bias else {}
    if weight_decay_bias is not None:
        bias["weight_decay"] = weight_decay_bias
    if bias:
        if "bias" in overrides:
            raise ValueError("overrides has an entry for 'bias', and so have bias_lr_factor or weight_decay_bias.")
        overrides["bias"] = bias
    defaults = {"lr": base_lr, "weight_decay": weight_decay}
    defaults = {name: value for name, value in defaults.items() if value is not None}

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
            values |= overrides.get(name, {})
            # few large groups, not one per parameter: the optimiser updates each in one go
            groups.setdefault(tuple(values.items()), []).append(parameter)
    return [{**dict(values), "params": parameters} for values, parameters in groups.items()]
