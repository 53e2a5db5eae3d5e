# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR with iterative box refinement, ResNet-50, 4 scales, 50 epochs: 46.2 AP (the authors' model zoo)."""

from ..common.models.deformable_detr_r50_refine import model
from .deformable_detr_r50_50ep import dataloader, lr_multiplier, optimizer, train
