# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR's queries: points of the image, whose positions are encoded like those of pixels (section 3)."""

import torch
from torch import Tensor, nn

from dino_d2.layers import PointPositions
from dino_d2.modeling.contracts import Queries
from dino_d2.modeling.levels import Levels


class PointQueries(nn.Module):
    """Learned points with several learned patterns each, the same for every image (section 3.2).

    N is ``num_patterns`` times ``num_points``: all points with the first pattern, then all with the second.

    Args:
        num_points: points in the image.
        num_patterns: patterns at each point.
        embed_dim: D.
    """

    points: "nn.Embedding | Grid"

    def __init__(self, num_points: int = 300, num_patterns: int = 3, embed_dim: int = 256):
        super().__init__()
        self.patterns = nn.Embedding(num_patterns, embed_dim)
        self.make_points(num_points)

    def make_points(self, num_points: int) -> None:
        """Set ``points`` to an embedding of xy [num_points, 2], not restricted to the image."""
        points = nn.Embedding(num_points, 2)
        nn.init.uniform_(points.weight)
        self.points = points

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """Only the batch size of memory [B, S, D] is used; anchors are points [B, N, 2]."""
        num_patterns, num_points = len(self.patterns.weight), len(self.points.weight)
        content = self.patterns.weight.repeat_interleave(num_points, dim=0)
        points = self.points.weight.repeat(num_patterns, 1)
        return Queries(content.expand(memory.shape[0], -1, -1), points.expand(memory.shape[0], -1, -1), None)

    def query_positions(self, queries: Queries, anchors: Tensor, encoding: PointPositions) -> Tensor:
        """Positions of all queries' points [B, T, 2], encoded with the same weights as the pixels' positions."""
        return encoding.embed(anchors)

    def denoising_anchors(self, boxes: Tensor) -> Tensor:
        """Noised boxes [B, Q, 4] cxcywh in [0, 1] -> their centres [B, Q, 2] (DN-DETR section 4.7.1)."""
        return boxes[..., :2]


class GridPointQueries(PointQueries):
    """Points on a fixed grid (section 4.3, table 4) with round(sqrt(num_points)) points per side."""

    def make_points(self, num_points: int) -> None:
        """Set ``points`` to a fixed embedding of xy [num_points, 2]."""
        side = round(num_points**0.5)
        line = (torch.arange(side) + 0.5) / side
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1)
        self.points = Grid(grid)


class Grid(nn.Module):
    """Points [num_points, 2] that are neither trained nor saved in checkpoints."""

    weight: Tensor

    def __init__(self, points: Tensor):
        super().__init__()
        self.register_buffer("weight", points, persistent=False)
