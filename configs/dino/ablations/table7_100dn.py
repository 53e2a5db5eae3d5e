# SPDX-License-Identifier: Apache-2.0
"""DINO Table 7: 100 denoising queries without negatives; 47.4 AP."""

from .table4_row5_look_forward_twice import dataloader, lr_multiplier, model, optimizer, train
