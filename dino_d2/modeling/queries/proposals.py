# SPDX-License-Identifier: Apache-2.0
"""The detection head of the encoder: every token proposes a box at its position ("two-stage")."""

import torch
from torch import Tensor, nn

from dino_d2.modeling.contracts import Proposals
from dino_d2.modeling.heads import BoxHead, ClassHead
from dino_d2.modeling.levels import Levels, pixel_centres

from .base import take


class ProposalHead(nn.Module):
    """Proposals of DINO (section 3.4): the tokens with the highest class logits, each with a box.

    A token's anchor is centred on its pixel, with sides of 0.05 · 2^level of the image. Padding tokens and tokens whose
    anchor is within 0.01 of the border are masked: they share one feature vector and the box (1, 1, 1, 1).

    Args:
        embed_dim: D.
        num_classes: C.
    """

    def __init__(self, embed_dim: int, num_classes: int):
        super().__init__()
        self.project = nn.Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.class_head = ClassHead(embed_dim, num_classes)
        self.box_head = BoxHead(embed_dim)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, memory: Tensor, levels: Levels, num_proposals: int) -> Proposals:
        """Select the best tokens.

        Args:
            memory: [B, S, D].
            levels: geometry of the tokens.
            num_proposals: K, limited to S.
        """
        anchor_logits, usable = self.token_anchors(levels)
        features = self.norm(self.project(memory * usable))
        logits = self.class_head(features)  # [B, S, C]
        index = self.token_scores(logits).topk(min(num_proposals, logits.shape[1]), dim=1).indices
        return self.select(index, features, logits, anchor_logits)

    def token_scores(self, logits: Tensor) -> Tensor:
        """Ranking scores of the tokens, their highest logits: class logits [B, S, C] -> [B, S]."""
        return logits.amax(-1)

    def select(self, index: Tensor, features: Tensor, logits: Tensor, anchor_logits: Tensor) -> Proposals:
        """Proposals of the selected tokens [B, K]; only they get boxes and are supervised."""
        features = take(features, index)
        anchor_logits = take(anchor_logits, index)
        return Proposals(
            index=index,
            features=features,
            logits=take(logits, index),
            anchors=anchor_logits.sigmoid(),
            boxes=(self.box_head(features) + anchor_logits).sigmoid(),
        )

    @staticmethod
    def token_anchors(levels: Levels) -> tuple[Tensor, Tensor]:
        """Anchor logits [B, S, 4] (+inf if masked) and usable tokens [B, S, 1]; ``dino_d2.speed`` caches them."""
        centres = pixel_centres(levels)
        side = torch.cat([centres.new_full((h * w,), 0.05 * 2**i) for i, (h, w) in enumerate(levels.shapes)])
        anchors = torch.cat([centres, side[None, :, None].expand_as(centres)], dim=-1)
        usable = ((anchors > 0.01) & (anchors < 0.99)).all(-1, keepdim=True)
        if levels.padding_mask is not None:
            usable = usable & ~levels.padding_mask[..., None]
        logits = torch.log(anchors / (1 - anchors))
        return logits.masked_fill(~usable, float("inf")), usable


class ObjectnessProposalHead(ProposalHead):
    """Proposals of Deformable DETR (appendix A.4): the first class means "any object".

    Tokens are ranked by that logit only, and all tokens are supervised, not only the selected ones.
    """

    def token_scores(self, logits: Tensor) -> Tensor:
        """Class logits [B, S, C] -> objectness logits [B, S]."""
        return logits[..., 0]

    def select(self, index: Tensor, features: Tensor, logits: Tensor, anchor_logits: Tensor) -> Proposals:
        """Proposals of the selected tokens [B, K], with logits [B, S, C] and boxes [B, S, 4] of all tokens."""
        return Proposals(
            index=index,
            features=take(features, index),
            logits=logits,
            anchors=take(anchor_logits, index).sigmoid(),
            boxes=(self.box_head(features) + anchor_logits).sigmoid(),
        )
