# SPDX-License-Identifier: Apache-2.0
"""Splitting, joining and attending with heads, shared by all multi-head attentions."""

import torch.nn.functional as F
from torch import Tensor


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raise ValueError unless the channels divide evenly among the heads."""
    if embed_dim % num_heads:
        raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, T, D] -> [B, heads, T, D / heads]."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, heads, T, D / heads] -> [B, T, D]."""
    return x.transpose(1, 2).flatten(2)


def attend(query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention of all heads.

    Args:
        query: [B, heads, T, d].
        key: [B, heads, S, d].
        value: [B, heads, S, D / heads].
        blocked: boolean, broadcast to [B, heads, T, S]; True = may not attend. None: every query sees every key.
        dropout: probability of dropping an attention weight; 0 outside training.

    Returns:
        [B, T, D], heads joined.
    """
    allowed = None if blocked is None else ~blocked
    return join_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=dropout))


def self_attention_mask(mask: Tensor | None) -> Tensor | None:
    """A mask [T, T] or [B, T, T] in a shape that broadcasts over the heads; all heads share it."""
    return mask if mask is None or mask.dim() == 2 else mask[:, None]  # [T, T] or [B, 1, T, T]
