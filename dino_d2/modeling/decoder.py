"""The deformable decoder with anchors that are refined layer by layer (DINO sections 3.1 and 3.5)."""

import torch
from torch import Tensor, nn

from dino_d2.layers import MLP, MultiScaleDeformableAttention, SelfAttention, anchor_embedding, recomputed

from .encoder import FeedForward
from .heads import head_of_layer, refine
from .levels import Levels


class LookForwardOnce:
    """Box update of Deformable DETR (figure 6a): a layer's box loss trains that layer alone."""

    def __call__(self, refined: Tensor) -> Tensor:
        return refined.detach()


class LookForwardTwice:
    """DINO's box update (section 3.5, figure 6b): the next layer's box loss also trains this layer."""

    def __call__(self, refined: Tensor) -> Tensor:
        return refined


class DeformableDecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the memory, feed-forward; normalised after each."""

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
        self.self_attention = SelfAttention(embed_dim, num_heads, dropout)
        self.self_norm = nn.LayerNorm(embed_dim)
        self.cross_attention = MultiScaleDeformableAttention(embed_dim, num_heads, num_levels, num_points)
        self.cross_norm = nn.LayerNorm(embed_dim)
        self.feed_forward = FeedForward(embed_dim, feedforward_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, position: Tensor, anchors: Tensor, memory: Tensor, levels: Levels, mask: Tensor | None
    ) -> Tensor:
        """Content and positions [B, T, D], anchors per level [B, T, L, 4] -> content [B, T, D]."""
        x = self.self_norm(x + self.dropout(self.self_attention(x, position, mask)))
        attended = self.cross_attention(
            x + position, anchors, memory, levels.spatial_shapes, levels.start_index, levels.padding_mask
        )
        x = self.cross_norm(x + self.dropout(attended))
        return self.feed_forward(x)


class DeformableDecoder(nn.Module):
    """Decoder layers, each of which refines the anchors it was given.

    Args:
        class_head: shared by all layers (section D.3), or :class:`~dino_d2.modeling.heads.PerLayer`.
        box_head: likewise.
        box_update: :class:`LookForwardOnce` or :class:`LookForwardTwice`.
        num_layers: 6 in the paper (Table 8); Table 6 studies fewer.
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward networks.
        num_heads: attention heads.
        num_levels: feature levels.
        num_points: sampling points per head and level.
        dropout: 0 in DINO.
        activation_checkpointing: as the encoder's.
    """

    def __init__(
        self,
        class_head: nn.Module,
        box_head: nn.Module,
        box_update: LookForwardOnce | LookForwardTwice,
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
        self.class_head = class_head
        self.box_head = box_head
        self.box_update = box_update
        self.embed_dim = embed_dim
        self.layers = nn.ModuleList(
            DeformableDecoderLayer(embed_dim, feedforward_dim, num_heads, num_levels, num_points, dropout)
            for _ in range(num_layers)
        )
        self.position_head = MLP(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        self.norm = nn.LayerNorm(embed_dim)
        for linear in self.position_head.layers:
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self, content: Tensor, anchors: Tensor, memory: Tensor, position: Tensor, levels: Levels, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            content: [B, T, D].
            anchors: [B, T, 4] cxcywh in [0, 1].
            memory: [B, S, D].
            position: of the memory, not needed here: deformable attention samples by place.
            levels: geometry of the memory.
            mask: self-attention mask [T, T] or [B, T, T] bool, True = may not attend; None: all see all.

        Returns:
            class logits [L, B, T, C] and boxes [L, B, T, 4] (cxcywh in [0, 1]) of every layer.
        """
        # From boxes in the image to boxes in each padded map.
        map_scale = torch.cat([levels.valid_ratios, levels.valid_ratios], dim=-1)[:, None]  # [B, 1, L, 4]
        bases, states = [], []
        base = anchors
        x = content
        for i, layer in enumerate(self.layers):
            if i > 0:
                # The layer before moved these anchors, from its state before the norm; it predicts from the one after.
                refined = refine(anchors, head_of_layer(self.box_head, i - 1)(x))
                base, anchors = self.box_update(refined), refined.detach()
            map_anchors = anchors[:, :, None] * map_scale  # [B, T, L, 4]
            query_position = self.position_head(anchor_embedding(map_anchors[:, :, 0], self.embed_dim // 2))
            inputs = (x, query_position, map_anchors, memory, levels, mask)
            x = recomputed(layer, *inputs) if self.activation_checkpointing else layer(*inputs)
            bases.append(base)
            states.append(self.norm(x))
        states = torch.stack(states)  # [L, B, T, D]
        boxes = refine(torch.stack(bases), self.box_head(states))
        return self.class_head(states), boxes
