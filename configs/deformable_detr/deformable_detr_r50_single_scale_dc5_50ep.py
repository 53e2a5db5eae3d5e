# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR, ResNet-50-DC5 (dilated last stage), stride 16 alone, 50 epochs: 41.5 AP (the authors' model zoo)."""

from .deformable_detr_r50_single_scale_50ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone.options = {"output_stride": 16}
