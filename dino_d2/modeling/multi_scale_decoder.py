"""DAB-DETR's decoder over several feature levels (DAB-DETR and DN-DETR "with deformable encoder only").

Queries attend to every level by itself, and mix what they find by weights of their own.
"""

import torch
from torch import Tensor, nn

from dino_d2.layers import Linear

from .conditional_attention import ConditionalCrossAttention, attend, split_heads
from .conditional_decoder import ConditionalDecoderLayer, DynamicAnchorDecoder
from .decoder import LookForwardOnce, LookForwardTwice
from .levels import Levels


class MultiScaleDecoderLayer(ConditionalDecoderLayer):
    """A layer whose cross-attention has a softmax for each level.

    The projected queries of the self-attention say how much each level counts.

    Args:
        num_levels: L.
        others: of :class:`~dino_d2.modeling.conditional_decoder.ConditionalDecoderLayer`.
    """

    def __init__(
        self,
        cross_attention: ConditionalCrossAttention,
        num_levels: int,
        embed_dim: int,
        **others: int | float | nn.Module | None,
    ):
        super().__init__(cross_attention, embed_dim, **others)
        self.level_weights = Linear(embed_dim, num_levels)
        nn.init.xavier_uniform_(self.level_weights.weight)

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
        weights = self.level_weights(self.self_attention.query(x, query_position)).softmax(-1)  # [B, T, L]
        x = self.self_norm(x + self.dropout(self.self_attention(x, query_position, mask)))
        attended = self.attend_levels(x, query_position, query_sine, memory, position, levels, weights)
        x = self.cross_norm(x + self.dropout(attended))
        return self.feed_forward(x)

    def attend_levels(
        self,
        x: Tensor,
        query_position: Tensor,
        query_sine: Tensor,
        memory: Tensor,
        position: Tensor,
        levels: Levels,
        weights: Tensor,
    ) -> Tensor:
        """Content [B, T, D] and weights of the levels [B, T, L] -> [B, T, D]."""
        attention = self.cross_attention
        key_position = attention.key_position(position)
        query, key = attention.contents(x, query_position, memory, key_position)
        query = attention.beside(query, attention.query_sine(query_sine))
        sizes = [h * w for h, w in levels.shapes]
        keys = attention.beside(key, key_position).split(sizes, dim=2)
        values = split_heads(attention.value(memory), attention.num_heads).split(sizes, dim=2)
        allowed = [None] * len(sizes)
        if levels.padding_mask is not None:
            allowed = [~padding[:, None, None] for padding in levels.padding_mask.split(sizes, dim=1)]
        found = [attend(attention, query, *level) for level in zip(keys, values, allowed, strict=True)]
        # The weights sum to one, so mixing before the shared output projection is mixing after it.
        return attention.out_proj((torch.stack(found, dim=-1) * weights[:, :, None]).sum(-1))


class MultiScaleAnchorDecoder(DynamicAnchorDecoder):
    """DAB-DETR's decoder with :class:`MultiScaleDecoderLayer`.

    Args:
        num_levels: feature levels.
        others: as in :class:`~dino_d2.modeling.conditional_decoder.DynamicAnchorDecoder`.
    """

    def __init__(
        self,
        class_head: nn.Module,
        box_head: nn.Module,
        box_update: LookForwardOnce | LookForwardTwice,
        num_levels: int = 4,
        **others: int | float | bool | nn.Module | None,
    ):
        self.num_levels = num_levels  # the base class makes the layers
        super().__init__(class_head, box_head, box_update, **others)

    def make_layer(self, cross_attention: ConditionalCrossAttention, **sizes: int | float | nn.Module | None):
        """One layer around its cross-attention."""
        return MultiScaleDecoderLayer(cross_attention, self.num_levels, **sizes)
