# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR, ResNet-101, 50 epochs: 43.5 AP (DN-DETR Table 1)."""

from .anchor_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.name = "resnet101.tv_in1k"
