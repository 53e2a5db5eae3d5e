# SPDX-License-Identifier: Apache-2.0
"""DINO, ResNet-50, 4 scales, 36 epochs: 50.9 AP in the paper (Table 2)."""

from ..common.schedule import lr_multiplier_36ep as lr_multiplier
from .dino_r50_4scale_12ep import dataloader, model, optimizer, train

train.max_iter = 270000  # 36 epochs of 7500 iterations of 16 images
