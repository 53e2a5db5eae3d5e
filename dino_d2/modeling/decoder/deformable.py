# SPDX-License-Identifier: Apache-2.0
"""The deformable decoder with anchors that are refined layer by layer (DINO sections 3.1 and 3.5).

Deformable DETR, DAB-Deformable-DETR and DINO differ in three of its parts: the position encodings of queries, the box
update between layers, and the norm before the heads.
"""

from torch import Tensor, nn

from dino_d2.layers import FeedForward, MultiScaleDeformableAttention, SelfAttention, recomputed
from dino_d2.modeling.contracts import DecoderInputs, LayerPredictions
from dino_d2.modeling.levels import Levels

from .query_position import AnchorPosition
from .refinement import BoxUpdate, refine_layer_by_layer


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
        """Content and positions [B, T, D], anchors per level [B, T, V, 4] -> content [B, T, D]."""
        x = self.self_norm(x + self.dropout(self.self_attention(x, position, mask)))
        attended = self.cross_attention(
            x + position, anchors, memory, levels.spatial_shapes, levels.start_index, levels.padding_mask
        )
        x = self.cross_norm(x + self.dropout(attended))
        return self.feed_forward(x)


class DeformableDecoder(nn.Module):
    """Decoder layers, each of which refines the anchors of the previous one.

    Args:
        class_head: shared by all layers (section D.3), or :class:`~dino_d2.modeling.heads.PerLayer`.
        box_head: shared or per layer, as the class head.
        box_update: :class:`LookForwardOnce` or :class:`LookForwardTwice`; None: all layers start from the anchors of
            the query source (Deformable DETR without refinement).
        num_layers: 6 in the paper (Table 8); Table 6 studies fewer.
        embed_dim: D.
        feedforward_dim: hidden width of the feed-forward networks.
        num_heads: attention heads.
        num_levels: V.
        num_points: sampling points R per head and level.
        dropout: 0 in DINO.
        position_head: :class:`AnchorPosition` by default, :class:`ScaledAnchorPosition` or :class:`OwnPosition`.
        norm: before the heads; a LayerNorm by default, ``nn.Identity`` in Deformable DETR.
        anchor_eps: anchors are clamped to this distance from 0 and 1 before the logit: 1e-3 in DINO and DAB-DETR,
            1e-5 in Deformable DETR.
        activation_checkpointing: as in the encoder.
    """

    def __init__(
        self,
        class_head: nn.Module,
        box_head: nn.Module,
        box_update: BoxUpdate | None,
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

    def forward(self, inputs: DecoderInputs) -> LayerPredictions:
        """Decode; positions of the memory are not used, because deformable attention samples by coordinates.

        Args:
            inputs: with anchors [B, T, 4] cxcywh in [0, 1] or [B, T, 2] xy.
        """
        levels = inputs.levels

        def run_layer(i: int, x: Tensor, anchors: Tensor) -> Tensor:
            # From boxes in the image to boxes in each padded map: [B, T, V, 4]
            map_anchors = anchors[:, :, None] * levels.valid_ratios.repeat(1, 1, anchors.shape[-1] // 2)[:, None]
            position = self.position_head(map_anchors[:, :, 0], x if i > 0 else None, inputs.query_positions)
            arguments = (x, position, map_anchors, inputs.memory, levels, inputs.mask)
            layer = self.layers[i]
            return recomputed(layer, *arguments) if self.activation_checkpointing else layer(*arguments)

        return refine_layer_by_layer(
            inputs.content,
            inputs.anchors,
            run_layer,
            len(self.layers),
            self.box_update,
            self.norm,
            self.class_head,
            self.box_head,
            self.anchor_eps,
        )
