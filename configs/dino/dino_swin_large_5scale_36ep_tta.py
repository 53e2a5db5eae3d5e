# SPDX-License-Identifier: Apache-2.0
"""DINO with Swin-L and 5 scales, evaluated with test-time augmentation (appendix A uses Swin-L too)."""

from ..common.tta import tta
from .dino_swin_large_5scale_36ep import dataloader, lr_multiplier, model, optimizer, train

model.inference = tta
