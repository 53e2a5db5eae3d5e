# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR over four scales: a deformable encoder and DAB-DETR's dense decoder (DN-DETR section 4.6).

"DAB-Deformable-DETR (deformable encoder only)" in the authors' code, "DAB-Deformable-DETR" in DN-DETR's tables.
"""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import ChannelMapper, DeformableEncoder, MultiScaleAnchorDecoder, PatternBoxQueries

from .dab_detr_r50 import model

model.detector.num_levels = 4
model.detector.backbone.out_features = ["res3", "res4", "res5"]
model.detector.neck = L(ChannelMapper)(
    in_channels={"res3": 512, "res4": 1024, "res5": 2048},
    embed_dim="${..embed_dim}",
    num_levels="${..num_levels}",
)
model.detector.encoder = L(DeformableEncoder)(
    num_layers=6,
    embed_dim="${..embed_dim}",
    feedforward_dim=2048,
    num_heads=8,
    num_levels="${..num_levels}",
    num_points=4,
    dropout=0.0,
)
model.detector.queries = L(PatternBoxQueries)(num_queries=300, embed_dim="${..embed_dim}", num_patterns=3)
model.detector.decoder.update(_target_=MultiScaleAnchorDecoder, num_levels="${..num_levels}", activation=None)
