# SPDX-License-Identifier: Apache-2.0
"""DAB-Deformable-DETR with ResNet-50 and four scales: learned 4-D anchors in Deformable DETR (DAB-DETR appendix C)."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import ScaledAnchorPosition, StaticQueries

from .deformable_detr_r50_refine import model

model.detector.encoder.update(feedforward_dim=2048, dropout=0.0)
model.detector.queries = L(StaticQueries)(num_queries=300, embed_dim="${..embed_dim}")
model.detector.decoder.update(
    feedforward_dim=2048,
    dropout=0.0,
    position_head=L(ScaledAnchorPosition)(embed_dim="${...embed_dim}"),
    anchor_eps=1e-3,
)
model.criterion.update(class_weight=1.0, giou_eps=1e-6)
