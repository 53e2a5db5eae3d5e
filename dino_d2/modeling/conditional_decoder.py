"""Decoders with conditional cross-attention: Conditional DETR's, and DAB-DETR's with anchors that are refined."""

import torch
from torch import Tensor, nn

from dino_d2.layers import MLP, anchor_embedding, recomputed

from .conditional_attention import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    FirstConditionalCrossAttention,
    PositionScale,
    SizeModulation,
)
from .decoder import AnchorPosition, LookForwardOnce, LookForwardTwice
from .encoder import FeedForward
from .heads import anchor_logits, head_of_layer
from .levels import Levels


class ConditionalDecoderLayer(nn.Module):
    """Self-attention among queries, conditional attention to the memory, feed-forward; normalised after each."""

    def __init__(
        self,
        cross_attention: nn.Module,
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
        position: Tensor,
        levels: Levels,
        mask: Tensor | None,
    ) -> Tensor:
        """Content, positions and sine features [B, T, D], memory and its positions [B, S, D] -> content [B, T, D]."""
        x = self.self_norm(x + self.dropout(self.self_attention(x, query_position, mask)))
        attended = self.cross_attention(x, query_position, query_sine, memory, position, levels.padding_mask)
        x = self.cross_norm(x + self.dropout(attended))
        return self.feed_forward(x)


class ConditionalDecoder(nn.Module):
    """Conditional DETR's decoder: queries are embeddings, each with one reference point in the image (section 3).

    The embedding predicts the reference point; boxes are offsets from it, and it stays where it is.

    Args:
        class_head: of all layers.
        box_head: likewise; offsets [..., 4] in logit space.
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
        attentions = [FirstConditionalCrossAttention] + [ConditionalCrossAttention] * (num_layers - 1)
        self.layers = nn.ModuleList(
            self.make_layer(
                attention(embed_dim, num_heads, dropout),
                embed_dim=embed_dim,
                feedforward_dim=feedforward_dim,
                num_heads=num_heads,
                dropout=dropout,
                activation=activation,
            )
            for attention in attentions
        )
        self.position_scale = PositionScale(embed_dim)
        self.position_head = self.make_position_head()
        self.norm = nn.LayerNorm(embed_dim)

    def make_layer(self, cross_attention: nn.Module, **sizes: int | float | nn.Module | None) -> nn.Module:
        """One layer around its cross-attention."""
        return ConditionalDecoderLayer(cross_attention, **sizes)

    def make_position_head(self) -> nn.Module:
        """From embeddings [B, T, D] to logits [B, T, 2] of their reference points."""
        head = MLP(self.embed_dim, self.embed_dim, 2, num_layers=2)
        for linear in head.layers:
            nn.init.xavier_uniform_(linear.weight)
        return head

    def forward(
        self, content: Tensor, anchors: Tensor, memory: Tensor, position: Tensor, levels: Levels, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Decode.

        Args:
            content: [B, T, D].
            anchors: [B, T, D] embeddings.
            memory: [B, S, D].
            position: of the memory, [B, S, D].
            levels: geometry of the memory.
            mask: self-attention mask [T, T] or [B, T, T] bool, True = may not attend; None: all see all.

        Returns:
            class logits [L, B, T, C] and boxes [L, B, T, 4] (cxcywh in [0, 1]) of every layer.
        """
        points = self.position_head(anchors).sigmoid()  # [B, T, 2]
        sine = anchor_embedding(points, self.embed_dim // 2)
        states = []
        x = content
        for i, layer in enumerate(self.layers):
            layer_sine = sine if i == 0 else sine * self.position_scale(x)
            x = self.run_layer(layer, x, anchors, layer_sine, memory, position, levels, mask)
            states.append(self.norm(x))
        states = torch.stack(states)  # [L, B, T, D]
        boxes = (self.box_head(states) + anchor_logits(points, eps=1e-5)).sigmoid()
        return self.class_head(states), boxes

    def run_layer(self, layer: nn.Module, *inputs: Tensor | Levels | None) -> Tensor:
        """One layer, [B, T, D]."""
        return recomputed(layer, *inputs) if self.activation_checkpointing else layer(*inputs)


class DynamicAnchorDecoder(ConditionalDecoder):
    """DAB-DETR's decoder: queries are boxes, refined layer by layer, whose size shapes the attention (section 4).

    Args:
        box_update: :class:`~dino_d2.modeling.decoder.LookForwardTwice`, which the authors' code has before DINO named
            it, or :class:`~dino_d2.modeling.decoder.LookForwardOnce`.
        class_head, box_head, num_layers, embed_dim, feedforward_dim, num_heads, dropout, activation,
        activation_checkpointing: as in :class:`ConditionalDecoder`; the box head may be one for each layer.
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
        dropout: float = 0.0,
        activation: nn.Module | None = None,
        activation_checkpointing: bool = False,
    ):
        super().__init__(
            class_head,
            box_head,
            num_layers,
            embed_dim,
            feedforward_dim,
            num_heads,
            dropout,
            activation,
            activation_checkpointing,
        )
        self.box_update = box_update
        self.size_modulation = SizeModulation(embed_dim)

    def make_position_head(self) -> nn.Module:
        """From sine features of anchors [B, T, 2 · D] to their position encodings [B, T, D]."""
        return AnchorPosition(self.embed_dim)

    def forward(
        self, content: Tensor, anchors: Tensor, memory: Tensor, position: Tensor, levels: Levels, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As in :class:`ConditionalDecoder`, but ``anchors`` are boxes [B, T, 4], cxcywh in [0, 1]."""
        bases, states = [], []
        base = anchors
        x = content
        for i, layer in enumerate(self.layers):
            if i > 0:
                # The layer before moved these anchors, from its state before the norm; it predicts from the one after.
                refined = (head_of_layer(self.box_head, i - 1)(x) + anchor_logits(anchors)).sigmoid()
                base, anchors = self.box_update(refined), refined.detach()
            sine = anchor_embedding(anchors[..., :2], self.embed_dim // 2)
            if i > 0:
                sine = sine * self.position_scale(x)
            sine = self.size_modulation(sine, x, anchors)
            query_position = self.position_head(anchors, None, None)
            x = self.run_layer(layer, x, query_position, sine, memory, position, levels, mask)
            bases.append(anchor_logits(base))
            states.append(self.norm(x))
        states = torch.stack(states)  # [L, B, T, D]
        boxes = (self.box_head(states) + torch.stack(bases)).sigmoid()
        return self.class_head(states), boxes
