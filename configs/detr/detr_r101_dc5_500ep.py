# SPDX-License-Identifier: Apache-2.0
"""DETR-DC5, ResNet-101 with a dilated last stage, 500 epochs: 44.9 AP (DN-DETR Table 1)."""

from .detr_r101_500ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.options.output_stride = 16
