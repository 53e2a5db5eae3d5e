"""Row-column decoupled attention: along the rows, then along the columns (Anchor DETR section 3.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dense_decoder import DenseDecoderLayer
from .dense_encoder import DenseEncoder, DenseEncoderLayer
from .levels import Levels


class RowColumnAttention(nn.Module):
    """Multi-head attention to a map by one weight for each column and one for each row.

    A query weighs the w columns by keys that are means over all rows, and the h rows by keys that are means over all
    columns (padding included, as in the authors' code). The weight of a pixel is the product of the two, but no h · w
    weights are ever held.

    Args:
        embed_dim: D.
        num_heads: attention heads.
        dropout: on the weights.
    """

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, dropout: float = 0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim {embed_dim} is not a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.dropout = nn.Dropout(dropout)
        # Projections in a row: queries of columns along a row and of rows along a column, their keys, values.
        self.in_proj_weight = nn.Parameter(torch.empty(5 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(5 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self, query_row: Tensor, query_column: Tensor, memory: Tensor, position: Tensor, levels: Levels
    ) -> Tensor:
        """Attend.

        Args:
            query_row: [B, T, D] with the position in x.
            query_column: [B, T, D] with the position in y.
            memory: [B, h * w, D], one level.
            position: [B, h * w, 2 * D] of the memory, x before y.
            levels: geometry of the memory.

        Returns:
            [B, T, D].
        """
        height, width = levels.shapes[0]
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
        projected = [self.split_heads(F.linear(*i)) for i in zip(inputs, weights, biases, strict=True)]
        query_row, query_column, key_row, key_column, value = projected
        mask = None if levels.padding_mask is None else levels.masks[0]  # [B, h, w]
        along_row = self.weigh(query_row, key_row, None if mask is None else mask[:, 0])  # [B, heads, T, w]
        along_column = self.weigh(query_column, key_column, None if mask is None else mask[:, :, 0])
        value = value.unflatten(2, (height, width))  # [B, heads, h, w, d]
        # The longer side first, so that less is held in between.
        if width > height:
            out = torch.einsum("bnqw,bnhwd->bnqhd", along_row, value)
            out = torch.einsum("bnqh,bnqhd->bnqd", along_column, out)
        else:
            out = torch.einsum("bnqh,bnhwd->bnqwd", along_column, value)
            out = torch.einsum("bnqw,bnqwd->bnqd", along_row, out)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def weigh(self, query: Tensor, key: Tensor, padding: Tensor | None) -> Tensor:
        """Queries [B, heads, T, d], keys [B, heads, n, d], padding [B, n] -> weights [B, heads, T, n]."""
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if padding is not None:
            logits = logits.masked_fill(padding[:, None, None], float("-inf"))
        return self.dropout(logits.softmax(-1))

    def split_heads(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, heads, T, D / heads]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class RowColumnEncoderLayer(DenseEncoderLayer):
    """Row-column attention among pixels; positions are [B, S, 2 * D], x before y."""

    attention_class = RowColumnAttention

    def attend(self, x: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        row, column = position.chunk(2, dim=-1)
        return self.self_attention(x + row, x + column, x, position, levels)


class RowColumnEncoder(DenseEncoder):
    """A stack of row-column layers; arguments as in :class:`DenseEncoder`."""

    layer_class = RowColumnEncoderLayer


class RowColumnDecoderLayer(DenseDecoderLayer):
    """Dense self-attention among queries, row-column attention to the memory.

    Positions of queries are [B, T, 3 * D]: of the point, for self-attention, and of its x and its y.
    """

    attention_class = RowColumnAttention

    def attend(self, x: Tensor, query_position: Tensor, memory: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        _, row, column = query_position.chunk(3, dim=-1)
        return self.cross_attention(x + row, x + column, memory, position, levels)
