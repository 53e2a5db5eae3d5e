# SPDX-License-Identifier: Apache-2.0
"""Encoders in which every pixel attends to every pixel of its map (DETR section 3.2)."""

from torch import Tensor, nn

from dino_d2.layers import FeedForward, RowColumnAttention, SelfAttention, recomputed
from dino_d2.modeling.levels import Levels


class DenseEncoderLayer(nn.Module):
    """Self-attention over all tokens, then a feed-forward network; normalised after each (DETR figure 10)."""

    attention_class: type[SelfAttention | RowColumnAttention] = SelfAttention

    def __init__(
        self,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        self.self_attention = self.attention_class(embed_dim, num_heads, dropout)
        self.norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim, dropout, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """Tokens and positions, both [B, S, D] -> [B, S, D]."""
        x = self.norm(x + self.dropout(self.attend(x, position, levels)))
        return self.feed_forward(x)

    def attend(self, x: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        mask = None if levels.padding_mask is None else levels.padding_mask[:, None]  # [B, 1, S]
        return self.self_attention(x, position, mask)


class DenseEncoder(nn.Module):
    """A stack of dense layers.

    Args:
        num_layers: 6 in all published models.
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward networks.
        num_heads: attention heads.
        dropout: 0.1 in DETR, 0 in DAB-DETR.
        activation: of the feed-forward networks, copied for each; ReLU by default.
        position_scale: tokens -> factors for their positions, computed in every layer (DAB-DETR); None: no scaling.
        activation_checkpointing: as in the deformable encoder.
    """

    layer_class: type[DenseEncoderLayer] = DenseEncoderLayer

    def __init__(
        self,
        num_layers: int = 6,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
        position_scale: nn.Module | None = None,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        self.position_scale = position_scale
        self.activation_checkpointing = activation_checkpointing
        self.layers = nn.ModuleList(
            self.layer_class(embed_dim, feedforward_dim, num_heads, dropout, activation) for _ in range(num_layers)
        )

    def forward(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """Tokens and positions, both [B, S, D] -> memory [B, S, D]."""
        for layer in self.layers:
            scaled = position if self.position_scale is None else position * self.position_scale(tokens)
            inputs = (tokens, scaled, levels)
            tokens = recomputed(layer, *inputs) if self.activation_checkpointing else layer(*inputs)
        return tokens
