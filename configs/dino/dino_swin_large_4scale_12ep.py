# SPDX-License-Identifier: Apache-2.0
"""DINO, Swin-L pretrained on ImageNet-22k, 4 scales, 12 epochs: 56.8 AP (the authors' model zoo)."""

from ..common.models.dino_swin_large import model
from .dino_r50_4scale_12ep import dataloader, lr_multiplier, optimizer, train
