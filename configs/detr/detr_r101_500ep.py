# SPDX-License-Identifier: Apache-2.0
"""DETR, ResNet-101, 500 epochs: 43.5 AP (DN-DETR Table 1)."""

from .detr_r50_500ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.name = "resnet101.tv_in1k"
