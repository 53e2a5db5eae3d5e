# SPDX-License-Identifier: Apache-2.0
"""DAB-Deformable-DETR with a deformable encoder only, ResNet-50, 50 epochs: 46.9 AP (DN-DETR Table 4)."""

from ..common.data.coco import dataloader
from ..common.models.dab_deformable_encoder_r50 import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier_50ep as lr_multiplier
from ..common.train import train

train.max_iter = 375000  # 50 epochs of 7500 iterations of 16 images
