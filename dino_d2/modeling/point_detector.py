"""Anchor DETR: queries are points of the image, whose positions are made as those of the pixels are (section 3)."""

import torch
from torch import Tensor, nn

from dino_d2.layers import MLP, anchor_embedding, sine_embedding

from .dense_decoder import DenseDecoder
from .detector import Detector
from .heads import anchor_logits
from .levels import Levels
from .queries import Queries
from .row_column_attention import RowColumnDecoderLayer

TEMPERATURE = 10000.0


class PointPositions(nn.Module):
    """Positions of points: sine features of x and y through a small perceptron, for pixels and queries alike.

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
    """The same for row-column attention, where x and y have positions of their own, through another perceptron."""

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


class PointQueries(nn.Module):
    """Learned points with several learned patterns each, the same for every image (section 3.2).

    P patterns and A points make N = P · A queries, pattern after pattern.

    Args:
        num_points: A.
        num_patterns: P.
        embed_dim: D.
    """

    def __init__(self, num_points: int = 300, num_patterns: int = 3, embed_dim: int = 256):
        super().__init__()
        self.patterns = nn.Embedding(num_patterns, embed_dim)
        self.make_points(num_points)

    def make_points(self, num_points: int) -> None:
        """Set ``points`` to an embedding of xy [A, 2], not squeezed into the image by anything."""
        self.points = nn.Embedding(num_points, 2)
        nn.init.uniform_(self.points.weight)

    def forward(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] gives the batch size alone; anchors are points [B, N, 2]."""
        num_patterns, num_points = len(self.patterns.weight), len(self.points.weight)
        content = self.patterns.weight.repeat_interleave(num_points, dim=0)
        points = self.points.weight.repeat(num_patterns, 1)
        return Queries(content.expand(len(memory), -1, -1), points.expand(len(memory), -1, -1), None)

    def denoising_anchors(self, boxes: Tensor) -> Tensor:
        """Noised boxes [B, Q, 4] cxcywh in [0, 1] -> their centres [B, Q, 2] (DN-DETR section 4.7.1)."""
        return boxes[..., :2]


class GridPointQueries(PointQueries):
    """The same with points on a fixed grid (section 4.3, table 4): as many a side as the root of A, rounded."""

    def make_points(self, num_points: int) -> None:
        """Set ``points`` to a fixed embedding of xy [A, 2]."""
        side = round(num_points**0.5)
        line = (torch.arange(side) + 0.5) / side
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1).flatten(0, 1)
        self.points = Grid(grid)


class Grid(nn.Module):
    """Points [A, 2] that are neither trained nor kept in checkpoints."""

    def __init__(self, points: Tensor):
        super().__init__()
        self.register_buffer("weight", points, persistent=False)


class PointDecoder(DenseDecoder):
    """Anchor DETR's decoder: boxes are offsets from the queries' points, which stay where they are (section 3.1).

    Arguments as in :class:`DenseDecoder`; Anchor DETR has no last norm (``nn.Identity``).
    """

    def forward(
        self,
        content: Tensor,
        anchors: Tensor,
        memory: Tensor,
        position: Tensor,
        levels: Levels,
        mask: Tensor | None,
        query_positions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As in :class:`DenseDecoder`, but ``anchors`` are points [B, T, 2] with positions of their own."""
        states = self.run_layers(content, query_positions, memory, position, levels, mask)
        boxes = (self.box_head(states) + anchor_logits(anchors, eps=1e-5)).sigmoid()
        return self.class_head(states), boxes


class RowColumnPointDecoder(PointDecoder):
    """The same with row-column attention to the memory."""

    layer_class = RowColumnDecoderLayer


class PointDetector(Detector):
    """A detector whose position encoding serves pixels and queries, so that the two share its weights."""

    def query_positions(self, queries: Queries, anchors: Tensor) -> Tensor:
        """Positions of all queries' points [B, T, 2], denoising ones too."""
        return self.position_encoding.embed(anchors)
