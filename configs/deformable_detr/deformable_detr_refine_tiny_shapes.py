# SPDX-License-Identifier: Apache-2.0
"""A small Deformable DETR with box refinement on the generated shapes."""

from ..common.models.deformable_detr_r50_refine import model
from ..common.tiny_shapes import dataloader, lr_multiplier, optimizer, several_scales, train

several_scales(model)
model.detector.queries.num_queries = 50
