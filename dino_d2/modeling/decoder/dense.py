# SPDX-License-Identifier: Apache-2.0
"""DETR's decoder: queries without anchors that attend to every pixel (DETR section 3.2)."""

import torch
from torch import Tensor, nn

from dino_d2.layers import CrossAttention, FeedForward, RowColumnAttention, SelfAttention, recomputed
from dino_d2.modeling.contracts import DecoderInputs, LayerPredictions
from dino_d2.modeling.levels import Levels


class DenseDecoderLayer(nn.Module):
    """Self-attention among queries, attention to the memory, feed-forward; normalised after each (DETR figure 10)."""

    attention_class: type[CrossAttention | RowColumnAttention] = CrossAttention

    def __init__(self, embed_dim: int = 256, feedforward_dim: int = 2048, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        self.self_attention = SelfAttention(embed_dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(embed_dim)
        self.cross_attention = self.attention_class(embed_dim, num_heads, dropout)
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        levels: Levels,
        mask: Tensor | None,
    ) -> Tensor:
        """Content and positions [B, T, D], memory and its positions [B, S, D] -> content [B, T, D]."""
        self_position = query_position[..., : x.shape[-1]]
        x = self.self_norm(x + self.dropout(self.self_attention(x, self_position, mask)))
        x = self.cross_norm(x + self.dropout(self.attend(x, query_position, memory, memory_position, levels)))
        return self.feed_forward(x)

    def attend(
        self, x: Tensor, query_position: Tensor, memory: Tensor, memory_position: Tensor, levels: Levels
    ) -> Tensor:
        """Attention to the memory: content [B, T, D] -> [B, T, D]."""
        return self.cross_attention(x + query_position, memory + memory_position, memory, levels.padding_mask)


class DenseDecoder(nn.Module):
    """Decoder layers that predict boxes directly, without anchors.

    Args:
        class_head: shared by all layers, :class:`~dino_d2.modeling.heads.SoftmaxClassHead` in DETR.
        box_head: shared by all layers; [..., D] -> [..., 4] logits of cxcywh.
        num_layers: 6 in DETR.
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward networks.
        num_heads: attention heads.
        dropout: 0.1 in DETR.
        norm: before the heads; a LayerNorm by default.
        activation_checkpointing: as in the deformable decoder.
    """

    layer_class: type[DenseDecoderLayer] = DenseDecoderLayer

    def __init__(
        self,
        class_head: nn.Module,
        box_head: nn.Module,
        num_layers: int = 6,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.1,
        norm: nn.Module | None = None,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        self.class_head = class_head
        self.box_head = box_head
        self.activation_checkpointing = activation_checkpointing
        self.layers = nn.ModuleList(
            self.layer_class(embed_dim, feedforward_dim, num_heads, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim) if norm is None else norm

    def forward(self, inputs: DecoderInputs) -> LayerPredictions:
        """Decode; logits are [L, B, T, C + 1].

        Args:
            inputs: with anchors [B, T, D], embeddings that are added to queries and keys in every attention.
        """
        states = self.run_layers(inputs, inputs.anchors)
        return LayerPredictions(self.class_head(states), self.box_head(states).sigmoid())

    def run_layers(self, inputs: DecoderInputs, query_positions: Tensor) -> Tensor:
        """Content [B, T, D] through all layers -> states [L, B, T, D]."""
        states = []
        x = inputs.content
        for layer in self.layers:
            arguments = (x, query_positions, inputs.memory, inputs.memory_positions, inputs.levels, inputs.mask)
            x = recomputed(layer, *arguments) if self.activation_checkpointing else layer(*arguments)
            states.append(self.norm(x))
        return torch.stack(states)
