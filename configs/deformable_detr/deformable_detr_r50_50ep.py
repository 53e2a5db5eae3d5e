# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR, ResNet-50, 4 scales, 50 epochs: 44.5 AP (the authors' model zoo)."""

from ..common.data.coco import dataloader
from ..common.models.deformable_detr_r50 import model
from ..common.optim import optimizer
from ..common.schedule import lr_multiplier_50ep as lr_multiplier
from ..common.train import train

# Batch 32 and twice DETR's rate; a tenth of it for the backbone, sampling offsets and reference points (appendix A.4).
dataloader.train.total_batch_size = 32
optimizer.lr = 2e-4
optimizer.params.lr_factor_func.factors = {"backbone": 0.1, "sampling_offsets": 0.1, "reference_point": 0.1}

train.max_iter = 187500  # 50 epochs of 3750 iterations of 32 images
