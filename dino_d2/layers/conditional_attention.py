# SPDX-License-Identifier: Apache-2.0
"""Attention with separate projections of content and position (Conditional DETR section 3.3).

In self-attention the projected content and position are added. In cross-attention they are concatenated in every
head, so that an attention logit is the sum of a content term and a position term.
"""

import torch
from torch import Tensor, nn

from .heads import attend, check_heads, self_attention_mask, split_heads
from .mlp import MLP, LinearStack


class ConditionalSelfAttention(nn.Module):
    """Multi-head self-attention among queries; content and position are projected separately and added.

    Args:
        embed_dim: D, a multiple of ``num_heads``.
        num_heads: attention heads.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_content = projection(embed_dim)
        self.query_position = projection(embed_dim)
        self.key_content = projection(embed_dim)
        self.key_position = projection(embed_dim)
        self.value = projection(embed_dim)
        self.out_proj = projection(embed_dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """Content and positions [B, T, D], mask as in :class:`~dino_d2.layers.SelfAttention` -> [B, T, D]."""
        query = split_heads(self.query(x, position), self.num_heads)
        key = split_heads(self.key_content(x) + self.key_position(position), self.num_heads)
        value = split_heads(self.value(x), self.num_heads)
        dropout = self.dropout if self.training else 0.0
        return self.out_proj(attend(query, key, value, self_attention_mask(mask), dropout))

    def query(self, x: Tensor, position: Tensor) -> Tensor:
        """Projected queries of all heads; content and positions [B, T, D] -> [B, T, D]."""
        return self.query_content(x) + self.query_position(position)


class ConditionalCrossAttention(nn.Module):
    """Multi-head attention from queries to the memory, content and position concatenated in every head (figure 3).

    Args:
        embed_dim: D, a multiple of ``num_heads``.
        num_heads: attention heads.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        self.query_content = projection(embed_dim)
        self.query_sine = projection(embed_dim)
        self.key_content = projection(embed_dim)
        self.key_position = projection(embed_dim)
        self.value = projection(embed_dim)
        self.out_proj = projection(embed_dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        query_sine: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: [B, T, D] content.
            query_position: [B, T, D], used by the first layer only.
            query_sine: [B, T, D] sine features of the queries' reference points, already scaled.
            memory: [B, S, D].
            memory_position: [B, S, D].
            padding_mask: boolean [B, S]; True = may not be attended to.

        Returns:
            [B, T, D].
        """
        query, key, value = self.project(x, query_position, query_sine, memory, memory_position)
        blocked = None if padding_mask is None else padding_mask[:, None, None]
        return self.out_proj(attend(query, key, value, blocked, self.dropout if self.training else 0.0))

    def project(
        self, x: Tensor, query_position: Tensor, query_sine: Tensor, memory: Tensor, memory_position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, heads, T, 2 * d], keys [B, heads, S, 2 * d] and values [B, heads, S, d]."""
        key_position = self.key_position(memory_position)
        query, key = self.content_terms(x, query_position, memory, key_position)
        return (
            self.concatenate(query, self.query_sine(query_sine)),
            self.concatenate(key, key_position),
            split_heads(self.value(memory), self.num_heads),
        )

    def content_terms(
        self, x: Tensor, query_position: Tensor, memory: Tensor, key_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Content term of queries [B, T, D] and keys [B, S, D]."""
        return self.query_content(x), self.key_content(memory)

    def concatenate(self, content: Tensor, position: Tensor) -> Tensor:
        """Content and position [B, T, D] -> [B, heads, T, 2 * d]."""
        return torch.cat([split_heads(content, self.num_heads), split_heads(position, self.num_heads)], dim=-1)


class FirstConditionalCrossAttention(ConditionalCrossAttention):
    """Cross-attention of the first layer, whose content carries little information: positions are added, as in DETR."""

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__(embed_dim, num_heads, dropout)
        self.query_position = projection(embed_dim)

    def content_terms(
        self, x: Tensor, query_position: Tensor, memory: Tensor, key_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Content term of queries [B, T, D] and keys [B, S, D], positions added."""
        query, key = super().content_terms(x, query_position, memory, key_position)
        return query + self.query_position(query_position), key + key_position


class PositionScale(MLP):
    """Per-channel factors of position encodings from content, [..., D] -> [..., D] (Conditional DETR section 3.3)."""

    def __init__(self, embed_dim: int = 256):
        super().__init__(embed_dim, embed_dim, embed_dim, num_layers=2)
        self.initialise_xavier()


class SizeModulation(LinearStack):
    """Attention that is as wide and as high as the anchor (DAB-DETR section 4.4, equation 6).

    The x half of the sine features is multiplied by w_ref / w and the y half by h_ref / h; the content predicts the
    reference sizes.
    """

    def __init__(self, embed_dim: int = 256):
        super().__init__(embed_dim, embed_dim, 2, num_layers=2)
        self.initialise_xavier()

    def forward(self, sine: Tensor, content: Tensor, anchors: Tensor) -> Tensor:
        """Sine features [B, T, D] (y before x), content [B, T, D], anchors [B, T, 4] cxcywh -> [B, T, D]."""
        ratio = self.run_layers(content).sigmoid() / anchors[..., 2:]  # [B, T, 2]: of w and h
        return sine * ratio.flip(-1).repeat_interleave(sine.shape[-1] // 2, dim=-1)


def projection(embed_dim: int) -> nn.Linear:
    """A linear layer from D to D channels."""
    linear = nn.Linear(embed_dim, embed_dim)
    nn.init.xavier_uniform_(linear.weight)
    return linear
