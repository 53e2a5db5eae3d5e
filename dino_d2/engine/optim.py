# SPDX-License-Identifier: Apache-2.0
"""Learning rates of the parts of a model, and schedules."""

import math
from collections.abc import Mapping

from fvcore.common.param_scheduler import ParamScheduler


class LearningRateFactors:
    """Factor on the base learning rate by parameter name, for Detectron2's ``get_default_optimizer_params``.

    Args:
        factors: {part of a module path: factor}; the first part that occurs in a parameter's name counts, and
            parameters without one keep the base rate.
    """

    def __init__(self, factors: Mapping[str, float]):
        self.factors = dict(factors)

    def __call__(self, name: str) -> float:
        return next((factor for part, factor in self.factors.items() if part in name), 1.0)


def rate_for_batch(rate: float, batch_size: int, total_batch_size: int, accumulate: int = 1) -> float:
    """Learning rate for another batch size: with Adam it is scaled with the square root of the batch.

    Args:
        rate: for `batch_size` images in a step.
        total_batch_size: images in a batch over all ranks.
        accumulate: batches in a step.
    """
    return rate * math.sqrt(total_batch_size * accumulate / batch_size)


class ClosedSchedule(ParamScheduler):
    """A schedule with a value at the end of training as well.

    fvcore defines schedules on [0, 1), and some raise an error at 1 or very close to it. After the last step the loop
    reads the rate of iteration ``max_iter``, which no step uses. If the schedule has no value there, its last value is
    returned.

    Args:
        schedule: multiplier on the base learning rate, as a function of the finished part of the training.
    """

    def __init__(self, schedule: ParamScheduler):
        self.schedule = schedule

    def __call__(self, where: float) -> float:
        """
        Args:
            where: finished part of the training, in [0, 1].
        """
        last = 1 - 2 * self.WHERE_EPSILON
        if where <= last:
            return self.schedule(where)
        try:
            return self.schedule(where)
        except (RuntimeError, ValueError, IndexError, ZeroDivisionError):  # schedules raise different errors at the end
            return self.schedule(last)
