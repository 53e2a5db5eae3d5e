# SPDX-License-Identifier: Apache-2.0
"""The deformable encoder (Deformable DETR section 4.1)."""

from torch import Tensor, nn

from dino_d2.layers import FeedForward, MultiScaleDeformableAttention, recomputed
from dino_d2.modeling.levels import Levels, token_references


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention over all levels, then a feed-forward network; normalised after each."""

    def __init__(
        self,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.self_attention = MultiScaleDeformableAttention(embed_dim, num_heads, num_levels, num_points)
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim, dropout)

    def forward(self, x: Tensor, position: Tensor, reference_points: Tensor, levels: Levels) -> Tensor:
        """Tokens and positions [B, S, D], reference points [B, S, V, 2] -> [B, S, D]."""
        attended = self.self_attention(
            x + position, reference_points, x, levels.spatial_shapes, levels.start_index, levels.padding_mask
        )
        return self.feed_forward(self.norm(x + self.dropout(attended)))


class DeformableEncoder(nn.Module):
    """A stack of deformable layers over the tokens of all levels.

    Args:
        num_layers: 6 in the paper (Table 8); Table 6 studies fewer.
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward networks.
        num_heads: attention heads.
        num_levels: V.
        num_points: sampling points R per head and level.
        dropout: 0 in DINO.
        activation_checkpointing: save memory by storing only the input of each layer and recomputing the layer in the
            backward pass (docs/custom_data.md has the memory).
    """

    def __init__(
        self,
        num_layers: int = 6,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.0,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(embed_dim, feedforward_dim, num_heads, num_levels, num_points, dropout)
            for _ in range(num_layers)
        )

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """Tokens and positions, both [B, S, D] -> memory [B, S, D]."""
        reference_points = self.reference_points(levels)
        position = position.to(tokens.dtype)  # once; under autocast this halves the bytes that each layer reads
        for layer in self.layers:
            inputs = (tokens, position, reference_points, levels)
            tokens = recomputed(layer, *inputs) if self.activation_checkpointing else layer(*inputs)
        return tokens

    @staticmethod
    def reference_points(levels: Levels) -> Tensor:
        """Reference points [B, S, V, 2]: the position of each token on every level; ``dino_d2.speed`` caches them."""
        return token_references(levels)
