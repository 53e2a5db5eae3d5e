# SPDX-License-Identifier: Apache-2.0
"""A small DN-Deformable-DETR (deformable encoder only, 3 patterns) on the generated shapes."""

from ..common.models.dn_deformable_encoder_r50 import model
from ..common.tiny_shapes import dataloader, lr_multiplier, optimizer, several_scales, train

several_scales(model)
model.detector.queries.num_queries = 17  # with 3 patterns each
