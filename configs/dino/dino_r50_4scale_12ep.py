# SPDX-License-Identifier: Apache-2.0
"""DINO, ResNet-50, 4 scales, 12 epochs: 49.0 AP in the paper (Table 1)."""

from ..common.data.coco import dataloader
from ..common.models.dino_r50 import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier_12ep as lr_multiplier
from ..common.train import train

train.max_iter = 90000  # 12 epochs of 7500 iterations of 16 images
