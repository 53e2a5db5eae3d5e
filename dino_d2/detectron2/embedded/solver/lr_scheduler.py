# SPDX-License-Identifier: Apache-2.0
"""Learning rate schedules, as in `detectron2.solver.lr_scheduler`."""

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class WarmupParamScheduler(CompositeParamScheduler):
    """Adds a warm-up to another scheduler."""

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """
        Args:
            warmup_factor: the first value, as a fraction of the scheduler's first value.
            warmup_length: the duration of the warm-up, as a fraction of training.
            warmup_method: "linear" up to the scheduler's value at the end of the warm-up, or "constant".
            rescale_interval: compress the scheduler into the rest of training; otherwise the warm-up replaces its
                first part.
        """
        start = warmup_factor * scheduler(0.0)
        if warmup_method == "constant":
            warmup = ConstantParamScheduler(start)
        elif warmup_method == "linear":
            warmup = LinearParamScheduler(start, scheduler(0.0 if rescale_interval else warmup_length))
        else:
            raise ValueError(f"warmup_method must be 'linear' or 'constant', not {warmup_method!r}.")
        super().__init__(
            [warmup, scheduler],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
            lengths=[warmup_length, 1 - warmup_length],
        )


class LRMultiplier(LRScheduler):
    """A PyTorch scheduler that multiplies each group's initial learning rate by the value of a `ParamScheduler`."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, multiplier: ParamScheduler, max_iter: int, last_iter: int = -1
    ) -> None:
        """
        Args:
            max_iter: the number of iterations of the training.
            last_iter: the last completed iteration; -1 at the start.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(f"LRMultiplier needs a fvcore ParamScheduler, not {multiplier!r}.")
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict:
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float | Tensor]:
        multiplier = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * multiplier for base_lr in self.base_lrs]
