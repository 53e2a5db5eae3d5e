# SPDX-License-Identifier: Apache-2.0
"""The small DINO on shapes, evaluated with test-time augmentation: --eval-only train.init_checkpoint=..."""

from ..common.tta import tta
from .dino_tiny_shapes import dataloader, lr_multiplier, model, optimizer, train

model.inference = tta
