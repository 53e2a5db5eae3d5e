# SPDX-License-Identifier: Apache-2.0
from .optim import LearningRateFactors
from .trainer import NonFiniteLossError, Trainer, make_ema, unwrap

__all__ = ["LearningRateFactors", "NonFiniteLossError", "Trainer", "make_ema", "unwrap"]
