# SPDX-License-Identifier: Apache-2.0
"""A small DN-Anchor-DETR on the generated shapes."""

from ..common.models.dn_anchor_detr_r50 import model
from ..common.tiny_shapes import dataloader, lr_multiplier, one_scale, optimizer, train

one_scale(model)
model.detector.queries.update(num_points=17, num_patterns=3)  # 51 queries

optimizer.lr = 3e-4
