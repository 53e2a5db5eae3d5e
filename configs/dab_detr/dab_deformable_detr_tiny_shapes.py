# SPDX-License-Identifier: Apache-2.0
"""A small DAB-Deformable-DETR on the generated shapes."""

from ..common.models.dab_deformable_detr_r50 import model
from ..common.tiny_shapes import dataloader, lr_multiplier, optimizer, several_scales, train

several_scales(model)
model.detector.queries.num_queries = 50
