# SPDX-License-Identifier: Apache-2.0
"""DN-Anchor-DETR-DC5, ResNet-50 with a dilated last stage, 12 epochs: 39.4 AP (DN-DETR Table 3)."""

from ..common.data.coco import dataloader
from ..common.models.dn_anchor_detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier_12ep as lr_multiplier
from ..common.train import train

model.detector.backbone.options.output_stride = 16

train.max_iter = 12 * 7500
