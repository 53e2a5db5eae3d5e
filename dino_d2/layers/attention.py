"""Dense multi-head attention over ``scaled_dot_product_attention``."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import Linear, linear


class SelfAttention(nn.Module):
    """Multi-head self-attention whose queries and keys carry a position and whose values do not.

    The parameters have the names and shapes of ``nn.MultiheadAttention``, so checkpoints fit; unlike it,
    queries and keys are projected by one product, and a mask may differ from image to image.
    """

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

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
        query, key = linear(x + position, weight_qk, bias_qk).chunk(2, dim=-1)
        value = linear(x, weight_v, bias_v)
        allowed = None
        if mask is not None:
            allowed = ~mask if mask.dim() == 2 else ~mask[:, None]  # [B, 1, T, T]: the same for all heads
        out = F.scaled_dot_product_attention(
            *(self.split_heads(t) for t in (query, key, value)),
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, heads, T, D / heads]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class CrossAttention(SelfAttention):
    """Multi-head attention from queries to other tokens, with the same parameters."""

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
        projected = [linear(*inputs) for inputs in zip((query, key, value), weights, biases, strict=True)]
        out = F.scaled_dot_product_attention(
            *(self.split_heads(t) for t in projected),
            attn_mask=None if padding_mask is None else ~padding_mask[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(out.transpose(1, 2).flatten(2))
