# SPDX-License-Identifier: Apache-2.0
"""DETR, ResNet-50, 300 epochs: 40.6 AP (DN-DETR Table 3)."""

from ..common.data.coco import dataloader
from ..common.models.detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import drop_at
from ..common.train import train

lr_multiplier = drop_at(200, 300)

train.max_iter = 300 * 7500  # batch size 16; the authors use 64 at the same learning rate
