# SPDX-License-Identifier: Apache-2.0
"""The small DINO on shapes, with the papers' measures in addition to AP: docs/evaluation.md."""

from ..common.instruments import instruments
from .dino_tiny_shapes import dataloader, lr_multiplier, model, optimizer, train

dataloader.evaluator = [dataloader.evaluator, *instruments]

train.eval_period = 125  # an epoch, so that IS compares epochs
