# SPDX-License-Identifier: Apache-2.0
"""DN-Deformable-DETR, ResNet-50, 4 scales, 12 epochs: 43.4 AP (DN-DETR Table 2)."""

from ..common.schedule import lr_multiplier_12ep as lr_multiplier
from .dn_deformable_detr_r50_50ep import dataloader, model, optimizer, train

train.max_iter = 90000  # 12 epochs of 7500 iterations of 16 images
