# SPDX-License-Identifier: Apache-2.0
"""DINO Table 6: 4 encoder and 6 decoder layers, plain denoising; 46.2 AP."""

from .table4_row5_look_forward_twice import dataloader, lr_multiplier, model, optimizer, train

model.detector.encoder.num_layers = 4
