# SPDX-License-Identifier: Apache-2.0
"""DINO, Swin-L pretrained on ImageNet-22k, 5 scales, 12 epochs: 57.3 AP (the authors' model zoo)."""

from .dino_swin_large_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

# The fifth scale is the first stage, stride 4 (section D.3, "Multi-scale setting").
model.detector.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.detector.neck.in_channels = {"res2": 192, "res3": 384, "res4": 768, "res5": 1536}
model.detector.num_levels = 5
