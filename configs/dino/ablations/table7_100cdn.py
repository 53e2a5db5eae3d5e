# SPDX-License-Identifier: Apache-2.0
"""DINO Table 7: 100 contrastive pairs, which is DINO; 47.9 AP."""

from ..dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train
