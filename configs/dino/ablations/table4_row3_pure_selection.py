# SPDX-License-Identifier: Apache-2.0
"""DINO Table 4, row 3, the strong baseline: pure selection, plain denoising; 46.5 AP."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import ProposalHead, PureQuerySelection

from .table4_row4_mixed_selection import dataloader, lr_multiplier, model, optimizer, train

model.detector.queries = L(PureQuerySelection)(
    num_queries=900,
    proposal_head=L(ProposalHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
)
