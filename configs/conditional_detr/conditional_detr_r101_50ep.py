# SPDX-License-Identifier: Apache-2.0
"""Conditional DETR, ResNet-101, 50 epochs: 42.8 AP (DN-DETR Table 1)."""

from .conditional_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.name = "resnet101.tv_in1k"
