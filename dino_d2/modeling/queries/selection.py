# SPDX-License-Identifier: Apache-2.0
"""Static, pure and mixed query selection (DINO section 3.4, figure 5)."""

from torch import Tensor, nn

from dino_d2.modeling.contracts import Queries
from dino_d2.modeling.levels import Levels

from .base import AnchorQueries, repeat_for_patterns
from .proposals import ProposalHead


class StaticQueries(AnchorQueries):
    """Learned content and learned anchors, the same for every image (figure 5a).

    Args:
        num_queries: N.
        embed_dim: D.
    """

    def __init__(self, num_queries: int = 900, embed_dim: int = 256):
        super().__init__()
        self.num_queries = num_queries
        self.content = nn.Embedding(num_queries, embed_dim)
        self.anchor_logits = nn.Embedding(num_queries, 4)
        for embedding in (self.content, self.anchor_logits):  # all anchors start near the centre of the image
            nn.init.xavier_uniform_(embedding.weight)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """Only the batch size of memory [B, S, D] is used."""
        batch = memory.shape[0]
        content = self.content.weight.expand(batch, -1, -1)
        anchors = self.anchor_logits.weight.sigmoid().expand(batch, -1, -1)
        return Queries(content, anchors, None)


class PatternQueries(StaticQueries):
    """Several learned patterns at every learned anchor (Anchor DETR section 3.2), as in DAB-Deformable-DETR.

    N is ``num_patterns`` times ``num_queries``; the content of an anchor and a pattern are added.

    Args:
        num_queries: learned anchors.
        embed_dim: D.
        num_patterns: patterns at each anchor.
    """

    def __init__(self, num_queries: int = 300, embed_dim: int = 256, num_patterns: int = 3):
        super().__init__(num_queries, embed_dim)
        self.patterns = nn.Embedding(num_patterns, embed_dim)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """Only the batch size of memory [B, S, D] is used."""
        return repeat_for_patterns(super().forward(memory, levels), self.patterns.weight)


class PureQuerySelection(AnchorQueries):
    """Anchors and content both come from the selected encoder tokens (figure 5b).

    Args:
        proposal_head: scores the tokens.
        num_queries: N, limited to the number of tokens S.
    """

    def __init__(self, proposal_head: ProposalHead, num_queries: int = 900):
        super().__init__()
        self.num_queries = num_queries
        self.proposal_head = proposal_head

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] -> N = min(num_queries, S) queries."""
        proposals = self.proposal_head(memory, levels, self.num_queries)
        return Queries(proposals.features.detach(), proposals.boxes.detach(), proposals)


class MixedQuerySelection(AnchorQueries):
    """Anchors come from the selected encoder tokens, content is learned for each rank (figure 5c), as in DINO.

    Args:
        proposal_head: scores the tokens.
        num_queries: N, limited to the number of tokens S.
        embed_dim: D.
    """

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
