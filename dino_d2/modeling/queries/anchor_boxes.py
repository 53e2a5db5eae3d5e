# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR's queries: learned boxes with content that starts as zeros (DAB-DETR section 4.1)."""

from torch import Tensor, nn

from dino_d2.modeling.contracts import Queries
from dino_d2.modeling.levels import Levels

from .base import AnchorQueries, repeat_for_patterns


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
        """Only the batch size of memory [B, S, D] is used."""
        anchors = self.anchor_logits.weight.sigmoid().expand(memory.shape[0], -1, -1)
        return Queries(anchors.new_zeros(*anchors.shape[:2], self.embed_dim), anchors, None)


class PatternBoxQueries(AnchorBoxQueries):
    """Several learned patterns at every anchor (Anchor DETR section 3.2).

    N is ``num_patterns`` times ``num_queries``.

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
