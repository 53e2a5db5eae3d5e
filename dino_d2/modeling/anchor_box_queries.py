"""DAB-DETR's queries: learned boxes, and content that says nothing at first (DAB-DETR section 4.1)."""

from torch import Tensor, nn

from .levels import Levels
from .queries import AnchorQueries, Queries


class AnchorBoxQueries(AnchorQueries):
    """Learned anchors, the same for every image; content starts as zeros.

    Args:
        num_queries: N.
        embed_dim: D.
    """

    def __init__(self, num_queries: int = 300, embed_dim: int = 256):
        super().__init__()
        self.embed_dim = embed_dim
        self.anchor_logits = nn.Embedding(num_queries, 4)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] gives the batch size alone."""
        anchors = self.anchor_logits.weight.sigmoid().expand(len(memory), -1, -1)
        return Queries(anchors.new_zeros(*anchors.shape[:2], self.embed_dim), anchors, None)


class PatternBoxQueries(AnchorBoxQueries):
    """Several learned patterns at every anchor (Anchor DETR section 3.2): N = P · A queries, pattern after pattern.

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
        content, anchors, *_ = super().forward(memory, levels)  # [B, A, ...]
        content = (content[:, None] + self.patterns.weight[:, None]).flatten(1, 2)  # [B, P * A, D]
        return Queries(content, anchors.repeat(1, len(self.patterns.weight), 1), None)
