# SPDX-License-Identifier: Apache-2.0
"""DAB-Deformable-DETR with three patterns at each of 300 anchors, ResNet-50, 4 scales, 50 epochs."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import PatternQueries

from .dab_deformable_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.queries = L(PatternQueries)(num_queries=300, embed_dim="${..embed_dim}", num_patterns=3)
