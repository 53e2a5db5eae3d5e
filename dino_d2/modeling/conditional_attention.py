"""Attention that tells content and position apart (Conditional DETR section 3.3).

Every content and every position has a projection of its own. In self-attention the two are added; in cross-attention
they stand side by side in every head, so that an attention logit is the sum of a content part and a position part.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dino_d2.layers import MLP, Linear


class ConditionalSelfAttention(nn.Module):
    """Multi-head self-attention among queries; content and position are projected apart and added."""

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        for name in ("query_content", "query_position", "key_content", "key_position", "value", "out_proj"):
            self.add_module(name, projection(embed_dim))
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """Content and positions [B, T, D], mask as in :class:`~dino_d2.layers.SelfAttention` -> [B, T, D]."""
        query = split_heads(self.query(x, position), self.num_heads)
        key = split_heads(self.key_content(x) + self.key_position(position), self.num_heads)
        value = split_heads(self.value(x), self.num_heads)
        allowed = None
        if mask is not None:
            allowed = ~mask if mask.dim() == 2 else ~mask[:, None]  # [B, 1, T, T]: the same for all heads
        return self.out_proj(attend(self, query, key, value, allowed))

    def query(self, x: Tensor, position: Tensor) -> Tensor:
        """Projected queries of all heads; content and positions [B, T, D] -> [B, T, D]."""
        return self.query_content(x) + self.query_position(position)


class ConditionalCrossAttention(nn.Module):
    """Multi-head attention from queries to the memory, content beside position in every head (figure 3)."""

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.dropout = dropout
        for name in ("query_content", "query_sine", "key_content", "key_position", "value", "out_proj"):
            self.add_module(name, projection(embed_dim))
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        query_sine: Tensor,
        memory: Tensor,
        position: Tensor,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: [B, T, D] content.
            query_position: [B, T, D], which the first layer alone uses.
            query_sine: [B, T, D] sine features of the queries' reference points, already scaled.
            memory: [B, S, D].
            position: [B, S, D] of the memory.
            padding_mask: boolean [B, S]; True = may not be attended to.

        Returns:
            [B, T, D].
        """
        key_position = self.key_position(position)
        query, key = self.contents(x, query_position, memory, key_position)
        query = self.beside(query, self.query_sine(query_sine))
        key = self.beside(key, key_position)
        value = split_heads(self.value(memory), self.num_heads)
        allowed = None if padding_mask is None else ~padding_mask[:, None, None]
        return self.out_proj(attend(self, query, key, value, allowed))

    def contents(
        self, x: Tensor, query_position: Tensor, memory: Tensor, key_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Content part of queries [B, T, D] and keys [B, S, D]."""
        return self.query_content(x), self.key_content(memory)

    def beside(self, content: Tensor, position: Tensor) -> Tensor:
        """Two of [B, T, D] -> [B, heads, T, 2 · D / heads]."""
        return torch.cat([split_heads(content, self.num_heads), split_heads(position, self.num_heads)], dim=-1)


class FirstConditionalCrossAttention(ConditionalCrossAttention):
    """The same for the first layer, whose content says little yet: it carries position as well, as in DETR."""

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__(embed_dim, num_heads, dropout)
        self.query_position = projection(embed_dim)

    def contents(
        self, x: Tensor, query_position: Tensor, memory: Tensor, key_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Content part of queries [B, T, D] and keys [B, S, D], positions added."""
        query, key = super().contents(x, query_position, memory, key_position)
        return query + self.query_position(query_position), key + key_position


class PositionScale(MLP):
    """From content [..., D], factors for every channel of its position [..., D] (Conditional DETR section 3.3)."""

    def __init__(self, embed_dim: int = 256):
        super().__init__(embed_dim, embed_dim, embed_dim, num_layers=2)
        for linear in self.layers:
            nn.init.xavier_uniform_(linear.weight)


class SizeModulation(MLP):
    """Attention as wide and as high as the anchor (DAB-DETR section 4.4, equation 6).

    The x half of the sine features grows with w_ref / w and the y half with h_ref / h, where the content predicts the
    reference sizes.
    """

    def __init__(self, embed_dim: int = 256):
        super().__init__(embed_dim, embed_dim, 2, num_layers=2)
        for linear in self.layers:
            nn.init.xavier_uniform_(linear.weight)

    def forward(self, sine: Tensor, content: Tensor, anchors: Tensor) -> Tensor:
        """Sine features [B, T, D] (y before x), content [B, T, D], anchors [B, T, 4] cxcywh -> [B, T, D]."""
        ratio = super().forward(content).sigmoid() / anchors[..., 2:]  # [B, T, 2]: of w and h
        return sine * ratio.flip(-1).repeat_interleave(sine.shape[-1] // 2, dim=-1)


def projection(embed_dim: int) -> Linear:
    """D to D."""
    linear = Linear(embed_dim, embed_dim)
    nn.init.xavier_uniform_(linear.weight)
    return linear


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raise ValueError where channels cannot be shared out evenly."""
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, T, D] -> [B, heads, T, D / heads]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
    """Scaled dot-product attention with the module's dropout, heads joined: [B, heads, T, ...] -> [B, T, D]."""
    dropout = module.dropout if module.training else 0.0
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout)
    return out.transpose(1, 2).flatten(2)
