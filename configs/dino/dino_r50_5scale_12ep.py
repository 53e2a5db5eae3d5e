# SPDX-License-Identifier: Apache-2.0
"""DINO, ResNet-50, 5 scales, 12 epochs: 49.4 AP in the paper (Table 1)."""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

# The fifth scale is the first residual stage, stride 4 (section D.3, "Multi-scale setting").
model.detector.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.detector.neck.in_channels = {"res2": 256, "res3": 512, "res4": 1024, "res5": 2048}
model.detector.num_levels = 5
