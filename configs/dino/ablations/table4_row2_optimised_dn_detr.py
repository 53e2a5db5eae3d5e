# SPDX-License-Identifier: Apache-2.0
"""DINO Table 4, row 2: optimised DN-DETR, learned queries, plain denoising; 44.9 AP."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import StaticQueries

from .table4_row4_mixed_selection import dataloader, lr_multiplier, model, optimizer, train

model.detector.queries = L(StaticQueries)(num_queries=900, embed_dim="${..embed_dim}")
