# SPDX-License-Identifier: Apache-2.0
"""DN-Vanilla-DETR, ResNet-50, 300 epochs: 42.6 AP (DN-DETR Table 3)."""

from ..common.data.coco import dataloader
from ..common.models.dn_vanilla_detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import drop_at
from ..common.train import train

lr_multiplier = drop_at(200, 300)

train.max_iter = 300 * 7500
