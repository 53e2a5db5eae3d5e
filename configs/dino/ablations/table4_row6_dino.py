# SPDX-License-Identifier: Apache-2.0
"""DINO Table 4, row 6: all of DINO; 47.9 AP (49.0 with the settings that the authors released)."""

from ..dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train
