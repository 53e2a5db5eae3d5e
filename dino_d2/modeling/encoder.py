"""The deformable encoder (Deformable DETR section 4.1)."""

import copy

from torch import Tensor, nn

from dino_d2.layers import Linear, MultiScaleDeformableAttention, feed_forward, recomputed

from .levels import Levels, token_references


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, added to the input and normalised; [B, T, D] -> [B, T, D].

    The activation is copied, so that one with parameters has them for each layer; ReLU by default.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        self.has_relu = activation is None  # inside linear1
        self.activation = copy.deepcopy(activation) or nn.Identity()
        self.linear1 = Linear(embed_dim, feedforward_dim, activation="none" if activation else "relu")
        self.linear2 = Linear(feedforward_dim, embed_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.dropout = nn.Dropout(dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.has_relu and not (self.dropout.training and self.dropout.p):
            return self.norm(x + feed_forward(x, self.linear1, self.linear2))
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.norm(x + self.dropout(self.linear2(hidden)))


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
        """[B, S, D] tokens -> [B, S, D]; ``reference_points`` is [B, S, L, 2]."""
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
        num_levels: feature levels.
        num_points: sampling points per head and level.
        dropout: 0 in DINO.
        activation_checkpointing: keep each layer's input alone and compute the layer again in the backward pass, for
            less memory (docs/custom_data.md says how much).
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
        reference_points = token_references(levels)  # each token samples around its own place, on every level
        position = position.to(tokens.dtype)  # once, instead of every layer's sum: half as much to read under autocast
        for layer in self.layers:
            inputs = (tokens, position, reference_points, levels)
            tokens = recomputed(layer, *inputs) if self.activation_checkpointing else layer(*inputs)
        return tokens
