# SPDX-License-Identifier: Apache-2.0
"""Parameter groups and learning rates, as in `detectron2.solver`."""

from .build import get_default_optimizer_params
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = ["LRMultiplier", "LRScheduler", "WarmupParamScheduler", "get_default_optimizer_params"]
