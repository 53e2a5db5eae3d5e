# SPDX-License-Identifier: Apache-2.0
"""Row-column decoupled attention: first along rows, then along columns (Anchor DETR section 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .heads import check_heads, join_heads, split_heads


class RowColumnAttention(nn.Module):
    """Multi-head attention to a map with one weight per column and one per row.

    A query weighs the w columns by keys that are means over all rows, and the h rows by keys that are means over all
    columns (padding included, as in the authors' code). The weight of a pixel is the product of the two; the h · w
    weights are never stored.

    Args:
        embed_dim: D.
        num_heads: attention heads.
        dropout: on the weights.
    """

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)
        # Stacked projections: row query, column query, row key, column key, value.
        self.in_proj_weight = nn.Parameter(torch.empty(5 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(5 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query_row: Tensor,
        query_column: Tensor,
        memory: Tensor,
        position: Tensor,
        shape: tuple[int, int],
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Attend.

        Args:
            query_row: [B, T, D] with the position in x.
            query_column: [B, T, D] with the position in y.
            memory: [B, h * w, D], one level.
            position: [B, h * w, 2 * D] of the memory, x before y.
            shape: (h, w) of the map.
            padding_mask: boolean [B, h * w]; True = may not be attended to.

        Returns:
            [B, T, D].
        """
        height, width = shape
        row_position, column_position = position.unflatten(1, (height, width)).chunk(2, dim=-1)
        pixels = memory.unflatten(1, (height, width))  # [B, h, w, D]
        inputs = (
            query_row,
            query_column,
            pixels.mean(1) + row_position[:, 0],  # [B, w, D]: all rows have the same positions
            pixels.mean(2) + column_position[:, :, 0],  # [B, h, D]
            memory,
        )
        weights, biases = self.in_proj_weight.chunk(5), self.in_proj_bias.chunk(5)
        projected = [split_heads(F.linear(*i), self.num_heads) for i in zip(inputs, weights, biases, strict=True)]
        query_row, query_column, key_row, key_column, value = projected
        mask = None if padding_mask is None else padding_mask.unflatten(1, shape)  # [B, h, w]
        along_row = self.weigh(query_row, key_row, None if mask is None else mask[:, 0])  # [B, heads, T, w]
        along_column = self.weigh(query_column, key_column, None if mask is None else mask[:, :, 0])
        value = value.unflatten(2, (height, width))  # [B, heads, h, w, d]
        # Reduce the longer side first: the intermediate result is smaller.
        if width > height:
            out = torch.einsum("bnqw,bnhwd->bnqhd", along_row, value)
            out = torch.einsum("bnqh,bnqhd->bnqd", along_column, out)
        else:
            out = torch.einsum("bnqh,bnhwd->bnqwd", along_column, value)
            out = torch.einsum("bnqw,bnqwd->bnqd", along_row, out)
        return self.out_proj(join_heads(out))

    def weigh(self, query: Tensor, key: Tensor, padding: Tensor | None) -> Tensor:
        """Queries [B, heads, T, d], keys [B, heads, n, d], padding [B, n] -> weights [B, heads, T, n]."""
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, None], float("-inf"))
        return self.dropout(logits.softmax(-1))
