# SPDX-License-Identifier: Apache-2.0
"""Position encodings of points in the image, for pixels and queries (Anchor DETR section 3.1)."""

import torch
from torch import Tensor, nn

from .mlp import MLP
from .position_encoding import anchor_embedding, sine_embedding

TEMPERATURE = 10000.0


class PointPositions(nn.Module):
    """Encodes points, both pixels and queries: an MLP on sine features of x and y.

    Args:
        embed_dim: D.
    """

    def __init__(self, embed_dim: int = 256):
        super().__init__()
        self.embed_dim = embed_dim
        self.embedding = MLP(embed_dim, embed_dim, embed_dim, num_layers=2)

    def forward(self, padding_mask: Tensor) -> Tensor:
        """[B, h, w] boolean mask (True = padding) -> positions of pixels [B, h, w, D]."""
        x, y = pixel_axes(padding_mask)
        grid = torch.stack([x[:, None].expand(padding_mask.shape), y[:, :, None].expand(padding_mask.shape)], dim=-1)
        return self.embed(grid)

    def embed(self, points: Tensor) -> Tensor:
        """[..., 2] xy, 0..1 over the un-padded image -> [..., D]."""
        return self.embedding(anchor_embedding(points, self.embed_dim // 2, TEMPERATURE))


class RowColumnPositions(PointPositions):
    """The same for row-column attention, which also needs separate encodings of x and y, from a second MLP."""

    def __init__(self, embed_dim: int = 256):
        super().__init__(embed_dim)
        self.axis_embedding = MLP(embed_dim, embed_dim, embed_dim, num_layers=2)

    def forward(self, padding_mask: Tensor) -> Tensor:
        """[B, h, w] boolean mask (True = padding) -> positions of pixels [B, h, w, 2 * D], x before y."""
        x, y = pixel_axes(padding_mask)
        row, column = self.embed_axis(x)[:, None], self.embed_axis(y)[:, :, None]  # [B, 1, w, D], [B, h, 1, D]
        shape = (*padding_mask.shape, self.embed_dim)
        return torch.cat([row.expand(shape), column.expand(shape)], dim=-1)

    def embed(self, points: Tensor) -> Tensor:
        """[..., 2] xy -> [..., 3 * D]: of the point, of its x and of its y."""
        return torch.cat([super().embed(points), self.embed_axis(points).flatten(-2)], dim=-1)

    def embed_axis(self, coordinates: Tensor) -> Tensor:
        """[...] -> [..., D]."""
        return self.axis_embedding(sine_embedding(coordinates[..., None], self.embed_dim, TEMPERATURE))


def pixel_axes(padding_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Centres of columns [B, w] and of rows [B, h] of a map with this mask [B, h, w], 0..1 over the un-padded part."""
    inside = ~padding_mask
    x = inside[:, 0].cumsum(1, dtype=torch.float32)
    y = inside[:, :, 0].cumsum(1, dtype=torch.float32)
    return (x - 0.5) / x[:, -1:], (y - 0.5) / y[:, -1:]
