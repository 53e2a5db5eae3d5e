# SPDX-License-Identifier: Apache-2.0
"""DETR, ResNet-50, 500 epochs: 42.0 AP (DN-DETR Table 1)."""

from ..common.schedule import drop_at
from .detr_r50_300ep import dataloader, model, optimizer, train

lr_multiplier = drop_at(400, 500)

train.max_iter = 500 * 7500  # batch size 16; the authors use 64 at the same learning rate
