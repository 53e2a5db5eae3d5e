# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR's decoder over several feature levels (DAB-DETR and DN-DETR "with deformable encoder only").

Queries attend to every level separately and combine the results with learned level weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dino_d2.layers import ConditionalCrossAttention
from dino_d2.layers.heads import attend
from dino_d2.modeling.levels import Levels

from .conditional import ConditionalDecoderLayer
from .dynamic_anchors import DynamicAnchorDecoder
from .refinement import BoxUpdate


class MultiScaleDecoderLayer(ConditionalDecoderLayer):
    """A layer whose cross-attention has a softmax for each level.

    The projected queries of the self-attention predict the weight of each level.

    Args:
        cross_attention: to the memory.
        num_levels: V.
        embed_dim, feedforward_dim, num_heads, dropout, activation: as in
            :class:`~dino_d2.modeling.decoder.conditional.ConditionalDecoderLayer`.
    """

    def __init__(
        self,
        cross_attention: ConditionalCrossAttention,
        num_levels: int,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
    ):
        super().__init__(cross_attention, embed_dim, feedforward_dim, num_heads, dropout, activation)
        self.level_weights = nn.Linear(embed_dim, num_levels)
        nn.init.xavier_uniform_(self.level_weights.weight)

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
        weights = self.level_weights(self.self_attention.query(x, query_position)).softmax(-1)  # [B, T, V]
        x = self.self_norm(x + self.dropout(self.self_attention(x, query_position, mask)))
        query, key, value = self.cross_attention.project(x, query_position, query_sine, memory, memory_position)
        x = self.cross_norm(x + self.dropout(self.attend_levels(query, key, value, levels, weights)))
        return self.feed_forward(x)

    def attend_levels(self, query: Tensor, key: Tensor, value: Tensor, levels: Levels, weights: Tensor) -> Tensor:
        """Attend to each level and combine.

        Args:
            query: [B, heads, T, 2 * d].
            key: [B, heads, S, 2 * d].
            value: [B, heads, S, d].
            levels: geometry of the memory.
            weights: [B, T, V] of the levels.

        Returns:
            [B, T, D].
        """
        sizes = [h * w for h, w in levels.shapes]
        blocked: Sequence[Tensor | None] = [None] * len(sizes)
        if levels.padding_mask is not None:
            blocked = [padding[:, None, None] for padding in levels.padding_mask.split(sizes, dim=1)]
        dropout = self.cross_attention.dropout if self.training else 0.0
        found = [
            attend(query, level_key, level_value, level_blocked, dropout)
            for level_key, level_value, level_blocked in zip(
                key.split(sizes, dim=2), value.split(sizes, dim=2), blocked, strict=True
            )
        ]
        # The weights sum to one, so combining before the shared output projection equals combining after it.
        return self.cross_attention.out_proj((torch.stack(found, dim=-1) * weights[:, :, None]).sum(-1))


class MultiScaleAnchorDecoder(DynamicAnchorDecoder):
    """DAB-DETR's decoder with :class:`MultiScaleDecoderLayer`.

    Args:
        num_levels: V; all other arguments are those of
            :class:`~dino_d2.modeling.decoder.dynamic_anchors.DynamicAnchorDecoder`.
    """

    def __init__(
        self,
        class_head: nn.Module,
        box_head: nn.Module,
        box_update: BoxUpdate,
        num_levels: int = 4,
        num_layers: int = 6,
        embed_dim: int = 256,
        feedforward_dim: int = 2048,
        num_heads: int = 8,
        dropout: float = 0.0,
        activation: nn.Module | None = None,
        activation_checkpointing: bool = False,
    ):
        self.num_levels = num_levels  # the base class makes the layers
        super().__init__(
            class_head,
            box_head,
            box_update,
            num_layers,
            embed_dim,
            feedforward_dim,
            num_heads,
            dropout,
            activation,
            activation_checkpointing,
        )

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
        return MultiScaleDecoderLayer(
            cross_attention, self.num_levels, embed_dim, feedforward_dim, num_heads, dropout, activation
        )
