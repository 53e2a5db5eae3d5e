"""Where the decoder's queries come from: static, pure or mixed selection (DINO section 3.4, figure 5)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dino_d2.layers import Linear, inverse_sigmoid

from .heads import BoxHead, ClassHead
from .levels import Levels, once_per_shape, pixel_centres


class Proposals(NamedTuple):
    """The K best encoder tokens of each image and what the encoder's heads say of them.

    DINO learns from the K chosen ones, Deformable DETR from all S: P is K or S.
    """

    index: Tensor  # [B, K] int64 token numbers, best first
    features: Tensor  # [B, K, D]
    logits: Tensor  # [B, P, C]
    anchors: Tensor  # [B, K, 4] cxcywh before the encoder's correction
    boxes: Tensor  # [B, P, 4] cxcywh after it


class Queries(NamedTuple):
    """What enters the decoder's matching part."""

    content: Tensor  # [B, N, D]
    anchors: Tensor  # [B, N, 4] cxcywh in [0, 1], or [B, N, 2] xy
    proposals: Proposals | None  # supervised as one more layer where the encoder made them
    positions: Tensor | None = None  # [B, N, D] position encodings, where they do not come from the anchors


class ProposalHead(nn.Module):
    """The encoder's own detection head: every token proposes a box around its place ("two-stage").

    A token's anchor is its pixel with sides of 0.05 · 2^level of the image. Tokens of padding, and tokens whose
    anchor comes within 0.01 of the border, cannot be told apart: they have the same features and the box (1, 1, 1, 1).

    Args:
        embed_dim: D.
        num_classes: C.
    """

    def __init__(self, embed_dim: int, num_classes: int):
        super().__init__()
        self.project = Linear(embed_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.class_head = ClassHead(embed_dim, num_classes)
        self.box_head = BoxHead(embed_dim)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, memory: Tensor, levels: Levels, num_proposals: int) -> Proposals:
        """The best tokens by their highest class logit.

        Args:
            memory: [B, S, D].
            levels: geometry of the tokens.
            num_proposals: K; an image with fewer tokens gives as many as it has.
        """
        anchor_logits, usable = self.token_anchors(levels)
        features = self.norm(self.project(memory * usable))
        logits = self.class_head(features)  # [B, S, C]
        count = min(num_proposals, logits.shape[1])
        index = logits.amax(-1).topk(count, dim=1).indices
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
    @once_per_shape
    def token_anchors(levels: Levels) -> tuple[Tensor, Tensor]:
        """Anchors as logits [B, S, 4] (+inf where unusable) and usable tokens [B, S, 1]."""
        centres = pixel_centres(levels)
        side = torch.cat([centres.new_full((h * w,), 0.05 * 2**i) for i, (h, w) in enumerate(levels.shapes)])
        anchors = torch.cat([centres, side[None, :, None].expand_as(centres)], dim=-1)
        usable = ((anchors > 0.01) & (anchors < 0.99)).all(-1, keepdim=True)
        if levels.padding_mask is not None:
            usable = usable & ~levels.padding_mask[..., None]
        logits = torch.log(anchors / (1 - anchors))
        return logits.masked_fill(~usable, float("inf")), usable


class AnchorQueries(nn.Module):
    """A source of queries whose anchors are boxes."""

    def denoising_anchors(self, boxes: Tensor) -> Tensor:
        """Noised boxes [B, Q, 4] cxcywh in [0, 1] as anchors [B, Q, 4] of denoising queries.

        Through the logit and back, as the authors do: noised boxes stay a little inside 0 and 1.
        """
        return inverse_sigmoid(boxes).sigmoid()


class StaticQueries(AnchorQueries):
    """Learned content and learned anchors, the same for every image (figure 5a)."""

    def __init__(self, num_queries: int = 900, embed_dim: int = 256):
        super().__init__()
        self.num_queries = num_queries
        self.content = nn.Embedding(num_queries, embed_dim)
        self.anchor_logits = nn.Embedding(num_queries, 4)
        for embedding in (self.content, self.anchor_logits):  # so all anchors start near the middle of the image
            nn.init.xavier_uniform_(embedding.weight)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] gives the batch size alone."""
        batch = memory.shape[0]
        content = self.content.weight.expand(batch, -1, -1)
        anchors = self.anchor_logits.weight.sigmoid().expand(batch, -1, -1)
        return Queries(content, anchors, None)


class PatternQueries(StaticQueries):
    """Several learned patterns at every learned anchor (Anchor DETR section 3.2, as DAB-Deformable-DETR has it).

    P patterns and A anchors make N = P · A queries, pattern after pattern; an anchor's content and a pattern are
    added.

    Args:
        num_queries: A.
        embed_dim: D.
        num_patterns: P.
    """

    def __init__(self, num_queries: int = 300, embed_dim: int = 256, num_patterns: int = 3):
        super().__init__(num_queries, embed_dim)
        self.patterns = nn.Embedding(num_patterns, embed_dim)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] gives the batch size alone."""
        content, anchors, _, _ = super().forward(memory, levels)
        content = content[:, None] + self.patterns.weight[:, None]  # [B, P, A, D]
        return Queries(content.flatten(1, 2), anchors.repeat(1, len(self.patterns.weight), 1), None)


class PureQuerySelection(AnchorQueries):
    """Anchors and content both from the selected encoder tokens (figure 5b)."""

    def __init__(self, proposal_head: ProposalHead, num_queries: int = 900):
        super().__init__()
        self.num_queries = num_queries
        self.proposal_head = proposal_head

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] -> N = min(num_queries, S) queries."""
        proposals = self.proposal_head(memory, levels, self.num_queries)
        return Queries(proposals.features.detach(), proposals.boxes.detach(), proposals)


class MixedQuerySelection(AnchorQueries):
    """Anchors from the selected encoder tokens, content learned, by rank (figure 5c): DINO's choice."""

    def __init__(self, proposal_head: ProposalHead, num_queries: int = 900, embed_dim: int = 256):
        super().__init__()
        self.num_queries = num_queries
        self.proposal_head = proposal_head
        self.content = nn.Embedding(num_queries, embed_dim)
        nn.init.xavier_uniform_(self.content.weight)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] -> N = min(num_queries, S) queries."""
        proposals = self.proposal_head(memory, levels, self.num_queries)
        batch, count = proposals.index.shape
        content = self.content.weight[:count].expand(batch, -1, -1)
        return Queries(content, proposals.boxes.detach(), proposals)


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of [B, S, D] by [B, K] token numbers -> [B, K, D]."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
