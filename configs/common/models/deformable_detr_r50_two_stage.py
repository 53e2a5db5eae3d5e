# SPDX-License-Identifier: Apache-2.0
"""Two-stage Deformable DETR (section 4.2): refinement, and queries from the encoder's proposals."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import ObjectnessCriterion, ObjectnessProposalHead, TwoStageQueries

from .deformable_detr_r50_refine import model

model.detector.queries = L(TwoStageQueries)(
    num_queries=300,
    embed_dim="${..embed_dim}",
    proposal_head=L(ObjectnessProposalHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
)
model.detector.decoder.box_head.first = None  # the anchors are boxes from the start
model.criterion._target_ = ObjectnessCriterion
