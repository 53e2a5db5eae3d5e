# SPDX-License-Identifier: Apache-2.0
"""Parameter groups and learning rate schedules, as in `detectron2.solver`."""
# ruff: noqa: F401

from .build import get_default_optimizer_params
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler
