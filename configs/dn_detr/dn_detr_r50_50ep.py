# SPDX-License-Identifier: Apache-2.0
"""DN-DETR, ResNet-50, 50 epochs: 44.1 AP (DN-DETR Table 1), 44.4 AP in the authors' model zoo."""

from ..common.data.coco import dataloader
from ..common.models.dn_detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import drop_at
from ..common.train import train

lr_multiplier = drop_at(40, 50)

train.max_iter = 50 * 7500
