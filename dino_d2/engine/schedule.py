# SPDX-License-Identifier: Apache-2.0
"""Checks the learning-rate schedule of a config before the run."""

import math

from omegaconf import DictConfig, OmegaConf

from dino_d2.errors import UserError

from .building import FAULTS, build, fault

#: Where a schedule is evaluated: fractions of the run.
PROBES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.999)


def check_schedule(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: ``cfg.lr_multiplier`` cannot be built or evaluated, has milestones out of order or a warm-up longer
            than the run, or gives a multiplier that is negative or not finite.
    """
    _check_warmup(cfg)
    _check_milestones(cfg)
    schedule = build(cfg, "lr_multiplier")
    if not callable(schedule):
        raise UserError("lr_multiplier: is not a schedule; the recipes use those of configs/common/schedule.py")
    for where in PROBES:
        try:
            value = schedule(where)
            fits = math.isfinite(value) and value >= 0
        except FAULTS as error:
            raise UserError(f"lr_multiplier: cannot be evaluated: {fault(error)}") from error
        if not fits:
            raise UserError(
                f"lr_multiplier: multiplies the learning rate by {value} after {where:.1%} of the run; it must be 0 or "
                "greater"
            )


def _check_warmup(cfg: DictConfig) -> None:
    length = OmegaConf.select(cfg, "lr_multiplier.warmup_length")
    if isinstance(length, int | float) and not 0 <= length <= 1:
        raise UserError(f"lr_multiplier.warmup_length={length}: must be in [0, 1], a fraction of all iterations")
    method = OmegaConf.select(cfg, "lr_multiplier.warmup_method")
    if method not in (None, "linear", "constant"):
        raise UserError(f"lr_multiplier.warmup_method={method!r}: must be linear or constant")


def _check_milestones(cfg: DictConfig) -> None:
    for section in ("lr_multiplier.scheduler", "lr_multiplier"):
        milestones = OmegaConf.select(cfg, f"{section}.milestones")
        if not OmegaConf.is_list(milestones):
            continue
        numbers = list(milestones)
        if not all(isinstance(number, int | float) for number in numbers):
            raise UserError(f"{section}.milestones={numbers}: must be a list of whole numbers")
        if sorted(set(numbers)) != numbers or any(number <= 0 for number in numbers):
            raise UserError(
                f"{section}.milestones={numbers}: must be greater than 0 and in ascending order; the last one is the "
                "end of the run"
            )
