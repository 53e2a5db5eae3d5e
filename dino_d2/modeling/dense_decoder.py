"""DETR's decoder: queries that are embeddings alone, attending to every pixel (DETR section 3.2)."""

import torch
from torch import Tensor, nn

from dino_d2.layers import CrossAttention, SelfAttention, recomputed

from .encoder import FeedForward
from .levels import Levels


class DenseDecoderLayer(nn.Module):
    """Self-attention among queries, attention to the memory, feed-forward; normalised after each (DETR figure 10)."""

    attention_class = CrossAttention

    def __init__(self, embed_dim: int = 256, feedforward_dim: int = 2048, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        self.self_attention = SelfAttention(embed_dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(embed_dim)
        self.cross_attention = self.attention_class(embed_dim, num_heads, dropout)
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, query_position: Tensor, memory: Tensor, position: Tensor, levels: Levels, mask: Tensor | None
    ) -> Tensor:
        """Content and positions [B, T, D], memory and its positions [B, S, D] -> content [B, T, D]."""
        own_position = query_position[..., : x.shape[-1]]
        x = self.self_norm(x + self.dropout(self.self_attention(x, own_position, mask)))
        x = self.cross_norm(x + self.dropout(self.attend(x, query_position, memory, position, levels)))
        return self.feed_forward(x)

    def attend(self, x: Tensor, query_position: Tensor, memory: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        return self.cross_attention(x + query_position, memory + position, memory, levels.padding_mask)


class DenseDecoder(nn.Module):
    """Decoder layers that each predict boxes afresh.

    Args:
        class_head: of all layers, :class:`~dino_d2.modeling.heads.SoftmaxClassHead` in DETR.
        box_head: of all layers; [..., D] -> [..., 4] logits of cxcywh.
        num_layers: 6 in DETR.
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward networks.
        num_heads: attention heads.
        dropout: 0.1 in DETR.
        norm: before the heads; a LayerNorm by default.
        activation_checkpointing: as in the deformable decoder.
    """

    layer_class = DenseDecoderLayer

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

    def forward(
        self, content: Tensor, anchors: Tensor, memory: Tensor, position: Tensor, levels: Levels, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            content: [B, T, D].
            anchors: [B, T, D] embeddings, added to queries and keys wherever queries attend.
            memory: [B, S, D].
            position: of the memory, [B, S, D].
            levels: geometry of the memory.
            mask: self-attention mask [T, T] or [B, T, T] bool, True = may not attend; None: all see all.

        Returns:
            class logits [L, B, T, C + 1] and boxes [L, B, T, 4] (cxcywh in [0, 1]) of every layer.
        """
        states = self.run_layers(content, anchors, memory, position, levels, mask)
        return self.class_head(states), self.box_head(states).sigmoid()

    def run_layers(self, x: Tensor, *inputs: Tensor | Levels | None) -> Tensor:
        """Content [B, T, D] through all layers, which get the other inputs alike -> states [L, B, T, D]."""
        states = []
        for layer in self.layers:
            x = recomputed(layer, x, *inputs) if self.activation_checkpointing else layer(x, *inputs)
            states.append(self.norm(x))
        return torch.stack(states)
