# SPDX-License-Identifier: Apache-2.0
"""DINO Table 6: 6 encoder and 6 decoder layers, plain denoising; 47.4 AP."""

from .table4_row5_look_forward_twice import dataloader, lr_multiplier, model, optimizer, train
