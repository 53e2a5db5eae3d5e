# SPDX-License-Identifier: Apache-2.0
"""Learning rates of the parts of a model."""

from collections.abc import Mapping


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
