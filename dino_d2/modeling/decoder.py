"""The deformable decoder with anchors that are refined layer by layer (DINO sections 3.1 and 3.5).

Deformable DETR, DAB-Deformable-DETR and DINO differ in three of its parts: where the queries' position encodings come
from, whether and how a layer moves the anchors of the next one, and the norm before the heads.
"""

import torch
from torch import Tensor, nn

from dino_d2.layers import MLP, MultiScaleDeformableAttention, SelfAttention, anchor_embedding, recomputed

from .encoder import FeedForward
from .heads import anchor_logits, head_of_layer
from .levels import Levels


class LookForwardOnce:
    """Box update of Deformable DETR (figure 6a): a layer's box loss trains that layer alone."""

    def __call__(self, refined: Tensor) -> Tensor:
        return refined.detach()


class LookForwardTwice:
    """DINO's box update (section 3.5, figure 6b): the next layer's box loss also trains this layer."""

    def __call__(self, refined: Tensor) -> Tensor:
        return refined


class AnchorPosition(MLP):
    """Position encodings of queries from the sine features of their anchors (DAB-DETR section 4); DINO's.

    Like all of its kind it gets the anchors on the finest map [B, T, 4], the content [B, T, D] that the layer before
    made (None in the first layer) and the positions [B, T, D] that the queries brought, and returns [B, T, D].
    """

    def __init__(self, embed_dim: int = 256):
        super().__init__(2 * embed_dim, embed_dim, embed_dim, num_layers=2)
        self.sine_dim = embed_dim // 2
        for linear in self.layers:
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, anchors: Tensor, content: Tensor | None, positions: Tensor | None) -> Tensor:
        return super().forward(anchor_embedding(anchors, self.sine_dim))


class ScaledAnchorPosition(AnchorPosition):
    """The same, multiplied from the second layer on by a scale that the content predicts (DAB-DETR section 4)."""

    def __init__(self, embed_dim: int = 256):
        super().__init__(embed_dim)
        self.scale = MLP(embed_dim, embed_dim, embed_dim, num_layers=2)

    def forward(self, anchors: Tensor, content: Tensor | None, positions: Tensor | None) -> Tensor:
        encoded = super().forward(anchors, content, positions)
        return encoded if content is None else self.scale(content) * encoded


class OwnPosition(nn.Module):
    """The positions that the queries brought, the same in all layers (Deformable DETR)."""

    def forward(self, anchors: Tensor, content: Tensor | None, positions: Tensor) -> Tensor:
        return positions


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
        box_update: :class:`LookForwardOnce` or :class:`LookForwardTwice`; None: all layers start from the queries' own
            anchors (Deformable DETR without refinement).
        position_head: :class:`AnchorPosition` by default, :class:`ScaledAnchorPosition` or :class:`OwnPosition`.
        norm: before the heads; by default a LayerNorm, which Deformable DETR does not have (``nn.Identity``).
        num_layers: 6 in the paper (Table 8); Table 6 studies fewer.
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward networks.
        num_heads: attention heads.
        num_levels: feature levels.
        num_points: sampling points per head and level.
        dropout: 0 in DINO.
        anchor_eps: how near to 0 and 1 an anchor may come: 1e-3 in DINO and DAB-DETR, 1e-5 in Deformable DETR.
        activation_checkpointing: as the encoder's.
    """

    def __init__(
        self,
        class_head: nn.Module,
        box_head: nn.Module,
        box_update: LookForwardOnce | LookForwardTwice | None,
        num_layers: int = 6,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        num_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.0,
        position_head: nn.Module | None = None,
        norm: nn.Module | None = None,
        anchor_eps: float = 1e-3,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.class_head = class_head
        self.box_head = box_head
        self.box_update = box_update
        self.anchor_eps = anchor_eps
        self.layers = nn.ModuleList(
            DeformableDecoderLayer(embed_dim, feedforward_dim, num_heads, num_levels, num_points, dropout)
            for _ in range(num_layers)
        )
        self.position_head = AnchorPosition(embed_dim) if position_head is None else position_head
        self.norm = nn.LayerNorm(embed_dim) if norm is None else norm

    def forward(
        self,
        content: Tensor,
        anchors: Tensor,
        memory: Tensor,
        position: Tensor,
        levels: Levels,
        mask: Tensor | None,
        query_positions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            content: [B, T, D].
            anchors: [B, T, 4] cxcywh in [0, 1], or [B, T, 2] xy.
            memory: [B, S, D].
            position: of the memory, not needed here: deformable attention samples by place.
            levels: geometry of the memory.
            mask: self-attention mask [T, T] or [B, T, T] bool, True = may not attend; None: all see all.
            query_positions: [B, T, D], for a position head that uses them.

        Returns:
            class logits [L, B, T, C] and boxes [L, B, T, 4] (cxcywh in [0, 1]) of every layer.
        """
        bases, states = [], []
        base = anchors
        x = content
        for i, layer in enumerate(self.layers):
            if i > 0 and self.box_update is not None:
                # The layer before moved these anchors, from its state before the norm; it predicts from the one after.
                refined = (head_of_layer(self.box_head, i - 1)(x) + anchor_logits(anchors, self.anchor_eps)).sigmoid()
                base, anchors = self.box_update(refined), refined.detach()
            # From boxes in the image to boxes in each padded map: [B, T, L, 4]
            map_anchors = anchors[:, :, None] * levels.valid_ratios.repeat(1, 1, anchors.shape[-1] // 2)[:, None]
            query_position = self.position_head(map_anchors[:, :, 0], x if i > 0 else None, query_positions)
            inputs = (x, query_position, map_anchors, memory, levels, mask)
            x = recomputed(layer, *inputs) if self.activation_checkpointing else layer(*inputs)
            bases.append(anchor_logits(base, self.anchor_eps))
            states.append(self.norm(x))
        states = torch.stack(states)  # [L, B, T, D]
        boxes = (self.box_head(states) + torch.stack(bases)).sigmoid()
        return self.class_head(states), boxes
