# SPDX-License-Identifier: Apache-2.0
"""DETR-DC5, ResNet-50 with a dilated last stage, 500 epochs: 43.3 AP (DN-DETR Table 1)."""

from .detr_r50_500ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.options.output_stride = 16
