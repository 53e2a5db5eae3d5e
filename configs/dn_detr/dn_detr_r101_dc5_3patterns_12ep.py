# SPDX-License-Identifier: Apache-2.0
"""DN-DETR-DC5, ResNet-101, three patterns at every anchor, 12 epochs: 42.8 AP (DN-DETR Table 2)."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import PatternBoxQueries

from ..common.schedule import lr_multiplier_12ep as lr_multiplier
from .dn_detr_r101_dc5_50ep import dataloader, model, optimizer, train

model.detector.queries = L(PatternBoxQueries)(num_queries=300, embed_dim="${..embed_dim}", num_patterns=3)

train.max_iter = 12 * 7500
