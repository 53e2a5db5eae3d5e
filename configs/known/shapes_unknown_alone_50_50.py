# SPDX-License-Identifier: Apache-2.0
"""The same on shapes with the split 0.5/0.5."""

from .shapes_unknown_alone_70_30 import dataloader, lr_multiplier, model, optimizer, train

dataloader.evaluator.dataset_name.classes.share = 0.5
