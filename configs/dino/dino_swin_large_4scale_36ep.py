# SPDX-License-Identifier: Apache-2.0
"""DINO, Swin-L pretrained on ImageNet-22k, 4 scales, 36 epochs: 58.0 AP (the authors' model zoo)."""

from ..common.schedule import lr_multiplier_36ep as lr_multiplier
from .dino_swin_large_4scale_12ep import dataloader, model, optimizer, train

# The rate drops after 30 epochs, as for ResNet-50 (section D.3); the paper gives no schedule for Swin-L.

train.max_iter = 270000  # 36 epochs of 7500 iterations of 16 images
