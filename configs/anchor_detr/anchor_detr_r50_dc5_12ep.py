# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR-DC5, ResNet-50 with a dilated last stage, 12 epochs: 38.2 AP (DN-DETR Table 3)."""

from ..common.schedule import lr_multiplier_12ep as lr_multiplier
from .anchor_detr_r50_dc5_50ep import dataloader, model, optimizer, train

train.max_iter = 12 * 7500  # batch size 16, as in DN-DETR
