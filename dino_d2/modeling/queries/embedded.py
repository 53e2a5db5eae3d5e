# SPDX-License-Identifier: Apache-2.0
"""DETR's queries: learned embeddings without a position in the image (DETR section 3.2)."""

from torch import Tensor, nn

from dino_d2.modeling.contracts import Queries
from dino_d2.modeling.levels import Levels

from .base import BaseQueries


class EmbeddedQueries(BaseQueries):
    """Positions are learned embeddings, the same for every image; content starts as zeros.

    Args:
        num_queries: N, 100 in DETR, 300 in Conditional DETR.
        embed_dim: D.
    """

    def __init__(self, num_queries: int = 100, embed_dim: int = 256):
        super().__init__()
        self.position = nn.Embedding(num_queries, embed_dim)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """Only the batch size of memory [B, S, D] is used; anchors are the embeddings [B, N, D]."""
        position = self.position.weight.expand(memory.shape[0], -1, -1)
        return Queries(position.new_zeros(position.shape), position, None)


class DenoisedEmbeddedQueries(EmbeddedQueries):
    """Supports denoising: a linear layer embeds noised boxes as positions (DN-DETR section 4.7.2)."""

    def __init__(self, num_queries: int = 100, embed_dim: int = 256):
        super().__init__(num_queries, embed_dim)
        self.box_embedding = nn.Linear(4, embed_dim)

    def denoising_anchors(self, boxes: Tensor) -> Tensor:
        """Noised boxes [B, Q, 4] cxcywh in [0, 1] -> [B, Q, D]."""
        return self.box_embedding(boxes)
