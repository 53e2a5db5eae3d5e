# SPDX-License-Identifier: Apache-2.0
"""A small DAB-DETR on the generated shapes."""

from ..common.models.dab_detr_r50 import model
from ..common.tiny_shapes import dataloader, lr_multiplier, one_scale, optimizer, train

one_scale(model)
model.detector.queries.num_queries = 50
model.postprocess.top_k = 100

optimizer.lr = 3e-4
