# SPDX-License-Identifier: Apache-2.0
"""DN-DETR-DC5, ResNet-50 with a dilated last stage, 50 epochs: 46.3 AP (DN-DETR Table 1)."""

from .dn_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.options.output_stride = 16
