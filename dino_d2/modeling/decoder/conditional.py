# SPDX-License-Identifier: Apache-2.0
"""Conditional DETR's decoder: queries with one reference point each (section 3)."""

import torch
from torch import Tensor, nn

from dino_d2.layers import (
    MLP,
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    FeedForward,
    FirstConditionalCrossAttention,
    PositionScale,
    anchor_embedding,
    recomputed,
)
from dino_d2.modeling.contracts import DecoderInputs, LayerPredictions
from dino_d2.modeling.heads import anchor_logits
from dino_d2.modeling.levels import Levels


class ConditionalDecoderLayer(nn.Module):
    """Self-attention among queries, conditional attention to the memory, feed-forward; normalised after each."""

    def __init__(
        self,
        cross_attention: ConditionalCrossAttention,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
    ):
        super().__init__()
        self.self_attention = ConditionalSelfAttention(embed_dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(embed_dim)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim, dropout, activation)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        query_sine: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        levels: Levels,
        mask: Tensor | None,
    ) -> Tensor:
        """Content, positions and sine features [B, T, D], memory and its positions [B, S, D] -> content [B, T, D]."""
        x = self.self_norm(x + self.dropout(self.self_attention(x, query_position, mask)))
        attended = self.cross_attention(x, query_position, query_sine, memory, memory_position, levels.padding_mask)
        x = self.cross_norm(x + self.dropout(attended))
        return self.feed_forward(x)


class ConditionalDecoder(nn.Module):
    """Conditional DETR's decoder: queries are embeddings, each with one reference point in the image (section 3).

    The embedding predicts the reference point; boxes are offsets from it, and it is not refined.

    Args:
        class_head: shared by all layers.
        box_head: shared by all layers; offsets [..., 4] in logit space.
        num_layers: 6 in the paper.
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward networks.
        num_heads: attention heads.
        dropout: 0.1 in Conditional DETR, 0 in DAB-DETR.
        activation: of the feed-forward networks, copied for each; ReLU by default, PReLU in DAB-DETR.
        activation_checkpointing: as in the deformable decoder.
    """

    def __init__(
        self,
        class_head: nn.Module,
        box_head: nn.Module,
        num_layers: int = 6,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.1,
        activation: nn.Module | None = None,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        self.class_head = class_head
        self.box_head = box_head
        self.embed_dim = embed_dim
        self.activation_checkpointing = activation_checkpointing
        attentions: list[type[ConditionalCrossAttention]] = [FirstConditionalCrossAttention]
        attentions += [ConditionalCrossAttention] * (num_layers - 1)
        self.layers = nn.ModuleList(
            self.make_layer(
                attention(embed_dim, num_heads, dropout), embed_dim, feedforward_dim, num_heads, dropout, activation
            )
            for attention in attentions
        )
        self.position_scale = PositionScale(embed_dim)
        self.position_head = self.make_position_head()
        self.norm = nn.LayerNorm(embed_dim)

    def make_layer(
        self,
        cross_attention: ConditionalCrossAttention,
        embed_dim: int,
        feedforward_dim: int,
        num_heads: int,
        dropout: float,
        activation: nn.Module | None,
    ) -> nn.Module:
        """One layer around its cross-attention."""
        return ConditionalDecoderLayer(cross_attention, embed_dim, feedforward_dim, num_heads, dropout, activation)

    def make_position_head(self) -> nn.Module:
        """From embeddings [B, T, D] to logits [B, T, 2] of their reference points."""
        head = MLP(self.embed_dim, self.embed_dim, 2, num_layers=2)
        head.initialise_xavier()
        return head

    def forward(self, inputs: DecoderInputs) -> LayerPredictions:
        """Decode.

        Args:
            inputs: with anchors [B, T, D] that are embeddings.
        """
        points = self.position_head(inputs.anchors).sigmoid()  # [B, T, 2]
        sine = anchor_embedding(points, self.embed_dim // 2)
        layer_states = []
        x = inputs.content
        for i in range(len(self.layers)):
            layer_sine = sine if i == 0 else sine * self.position_scale(x)
            x = self.run_layer(i, x, inputs.anchors, layer_sine, inputs)
            layer_states.append(self.norm(x))
        states = torch.stack(layer_states)  # [L, B, T, D]
        boxes = (self.box_head(states) + anchor_logits(points, eps=1e-5)).sigmoid()
        return LayerPredictions(self.class_head(states), boxes)

    def run_layer(self, i: int, x: Tensor, query_position: Tensor, query_sine: Tensor, inputs: DecoderInputs) -> Tensor:
        """Layer number i: content, positions and sine features of queries [B, T, D] -> content [B, T, D]."""
        layer = self.layers[i]
        memory = (inputs.memory, inputs.memory_positions, inputs.levels)
        arguments = (x, query_position, query_sine, *memory, inputs.mask)
        return recomputed(layer, *arguments) if self.activation_checkpointing else layer(*arguments)
