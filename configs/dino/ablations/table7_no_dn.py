# SPDX-License-Identifier: Apache-2.0
"""DINO Table 7: no denoising; 45.1 AP."""

from ..dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.denoising = None
model.detector.label_embedding = None
