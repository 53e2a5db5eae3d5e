# SPDX-License-Identifier: Apache-2.0
"""Dense multi-head attention over ``scaled_dot_product_attention``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .heads import attend, check_heads, self_attention_mask, split_heads


class MultiHeadAttention(nn.Module):
    """Parameters and arithmetic that self- and cross-attention share.

    The parameters have the names and shapes of ``nn.MultiheadAttention``, so checkpoints fit.

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
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None) -> Tensor:
        """Attention of projected queries [B, T, D] to keys and values [B, S, D] -> [B, T, D]."""
        query, key, value = (split_heads(x, self.num_heads) for x in (query, key, value))
        return self.out_proj(attend(query, key, value, blocked, self.dropout if self.training else 0.0))

    @staticmethod
    def project(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Linear projection with rows of the input projection: [B, T, D] -> [B, T, rows of the weight]."""
        return F.linear(x, weight, bias)


class SelfAttention(MultiHeadAttention):
    """Multi-head self-attention in which queries and keys carry a position and values do not.

    Unlike in ``nn.MultiheadAttention``, queries and keys share one matrix product, and the mask may differ between
    images.
    """

    def forward(self, x: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend within ``x``.

        Args:
            x: [B, T, D] content.
            position: [B, T, D] added to queries and keys.
            mask: boolean [T, T], [B, T, T] or [B, 1, T], row = query; True = may not attend.

        Returns:
            [B, T, D].
        """
        dim = x.shape[-1]
        weight_qk, weight_v = self.in_proj_weight.split([2 * dim, dim])
        bias_qk, bias_v = self.in_proj_bias.split([2 * dim, dim])
        query, key = self.project(x + position, weight_qk, bias_qk).chunk(2, dim=-1)
        value = self.project(x, weight_v, bias_v)
        return self.attend(query, key, value, self_attention_mask(mask))


class CrossAttention(MultiHeadAttention):
    """Multi-head attention from queries to other tokens, with the parameters of self-attention."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: [B, T, D], position included.
            key: [B, S, D], position included.
            value: [B, S, D].
            padding_mask: boolean [B, S]; True = may not be attended to.

        Returns:
            [B, T, D].
        """
        weights = self.in_proj_weight.chunk(3)
        biases = self.in_proj_bias.chunk(3)
        query, key, value = (self.project(*inputs) for inputs in zip((query, key, value), weights, biases, strict=True))
        return self.attend(query, key, value, None if padding_mask is None else padding_mask[:, None, None])
