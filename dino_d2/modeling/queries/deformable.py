# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR's queries: learned points, or proposals of the encoder ("two-stage").

Both provide position encodings, which are the same in all decoder layers (``OwnPosition``).
"""

from torch import Tensor, nn

from dino_d2.layers import sine_embedding
from dino_d2.modeling.contracts import Queries
from dino_d2.modeling.levels import Levels

from .base import BaseQueries, take
from .proposals import ObjectnessProposalHead


class ReferencePointQueries(BaseQueries):
    """Learned content and position; the reference point is predicted from the position (section 4.1).

    Args:
        num_queries: N.
        embed_dim: D.
    """

    def __init__(self, num_queries: int = 300, embed_dim: int = 256):
        super().__init__()
        self.embedding = nn.Embedding(num_queries, 2 * embed_dim)  # position, content
        self.reference_point = nn.Linear(embed_dim, 2)
        nn.init.xavier_uniform_(self.reference_point.weight)
        nn.init.zeros_(self.reference_point.bias)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """Only the batch size of memory [B, S, D] is used; the anchors are points [B, N, 2]."""
        positions, content = self.embedding.weight.expand(memory.shape[0], -1, -1).chunk(2, dim=-1)
        return Queries(content, self.reference_point(positions).sigmoid(), None, positions)


class TwoStageQueries(BaseQueries):
    """Anchors, content and positions all come from the boxes of the best proposals (section 4.2).

    Args:
        proposal_head: scores the tokens.
        num_queries: N.
        embed_dim: D.
    """

    def __init__(self, proposal_head: ObjectnessProposalHead, num_queries: int = 300, embed_dim: int = 256):
        super().__init__()
        self.num_queries = num_queries
        self.proposal_head = proposal_head
        self.project = nn.Linear(2 * embed_dim, 2 * embed_dim)
        self.norm = nn.LayerNorm(2 * embed_dim)
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] -> N = min(num_queries, S) queries."""
        proposals = self.proposal_head(memory, levels, self.num_queries)
        anchors = take(proposals.boxes, proposals.index).detach()
        sine = sine_embedding(anchors, self.project.in_features // 4, temperature=10000)  # x, y, w, h
        positions, content = self.norm(self.project(sine)).chunk(2, dim=-1)
        return Queries(content, anchors, proposals, positions)
