# SPDX-License-Identifier: Apache-2.0
"""DN-Deformable-DETR, ResNet-50, 4 scales, 50 epochs: 48.6 AP (DN-DETR Table 4)."""

from ..common.data.coco import dataloader
from ..common.models.dn_deformable_encoder_r50 import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier_50ep as lr_multiplier
from ..common.train import train

train.max_iter = 375000  # 50 epochs of 7500 iterations of 16 images
