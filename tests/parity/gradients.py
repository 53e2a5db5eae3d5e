# SPDX-License-Identifier: Apache-2.0
"""Comparison of the gradient of every parameter, by norm and sum."""

import torch

from dino_d2.meta_arch import DETR

from .compare import Comparison
from .models import parameters_by_rule_name
from .vectors import Vector


def compare_gradients(comparison: Comparison, vector: Vector, model: DETR) -> None:
    """Every trained parameter has the authors' gradient, and the same parameters are trained.

    Vectors that list gradients which are zero in exact arithmetic ("grad_zero") allow their rounding everywhere.
    """
    parameters = parameters_by_rule_name(vector, model)
    names = vector.file["grad_names"].tolist()
    untouched = set(vector.meta["grad_none"]) & set(parameters)  # a part that serves no purpose is not here at all
    assert {n for n, p in parameters.items() if p.requires_grad} == set(names) | untouched
    assert {n for n, p in parameters.items() if not p.requires_grad} == set(vector.meta["frozen"])
    norms, sums = vector["grad_norm_f64"], vector["grad_sum_f64"]
    assert torch.isfinite(norms).all()
    zero = set(vector.meta.get("grad_zero", ()))
    largest = float(norms.max())
    rounding = largest if "grad_zero" in vector.meta else 0.0
    for name, norm, total in zip(names, norms, sums, strict=True):
        gradient = parameters[name].grad
        assert gradient is not None, f"{name} has no gradient"
        gradient = gradient.double()
        if name in zero:
            assert gradient.norm() < 1e-5 * largest, f"the gradient of {name} should be zero"
            continue
        comparison.within(f"grad_norm {name}", gradient.norm(), norm, 1e-3 * norm + 1e-6 * rounding)
        limit = 1e-3 * norm * gradient.numel() ** 0.5 + 1e-5 * rounding
        comparison.within(f"grad_sum {name}", gradient.sum(), total, limit)
    for name in untouched:
        assert parameters[name].grad is None, f"{name} has a gradient"
