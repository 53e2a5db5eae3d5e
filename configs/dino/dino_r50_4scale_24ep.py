# SPDX-License-Identifier: Apache-2.0
"""DINO, ResNet-50, 4 scales, 24 epochs: 50.4 AP in the paper (Table 2)."""

from ..common.schedule import lr_multiplier_24ep as lr_multiplier
from .dino_r50_4scale_12ep import dataloader, model, optimizer, train

train.max_iter = 180000  # 24 epochs of 7500 iterations of 16 images
