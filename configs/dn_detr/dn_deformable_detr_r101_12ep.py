# SPDX-License-Identifier: Apache-2.0
"""DN-Deformable-DETR, ResNet-101, 4 scales, 12 epochs: 44.1 AP (DN-DETR Table 2)."""

from .dn_deformable_detr_r50_12ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.name = "resnet101.tv_in1k"
