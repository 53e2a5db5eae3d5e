# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR, ResNet-50, three patterns at every anchor, 50 epochs: 42.6 AP (the authors' model zoo)."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import PatternBoxQueries

from .dab_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.queries = L(PatternBoxQueries)(num_queries=300, embed_dim="${..embed_dim}", num_patterns=3)
