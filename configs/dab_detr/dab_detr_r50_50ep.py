# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR, ResNet-50, 50 epochs: 42.2 AP (DN-DETR Table 1)."""

from ..common.data.coco import dataloader
from ..common.models.dab_detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import drop_at
from ..common.train import train

lr_multiplier = drop_at(40, 50)

train.max_iter = 50 * 7500
