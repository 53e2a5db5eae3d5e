# SPDX-License-Identifier: Apache-2.0
"""DINO, ResNet-50, 5 scales, 36 epochs: 51.2 AP in the paper (Table 2)."""

from ..common.schedule import lr_multiplier_36ep as lr_multiplier
from .dino_r50_5scale_12ep import dataloader, model, optimizer, train

train.max_iter = 270000  # 36 epochs of 7500 iterations of 16 images
