# SPDX-License-Identifier: Apache-2.0
"""A small DN-Deformable-DETR++ on the generated shapes."""

from ..common.models.dn_deformable_detr_r50 import model
from ..common.tiny_shapes import dataloader, lr_multiplier, optimizer, several_scales, train

several_scales(model)
model.detector.queries.num_queries = 50
model.detector.queries.embed_dim = 95  # plus one channel for the indicator
