"""The tensor core: from images to the predictions of every decoder layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dino_d2.denoising import DenoisingQueries
from dino_d2.layers import SinePositionEncoding

from .levels import Levels, flatten_maps, kept, make_levels
from .queries import Proposals, Queries


class DetectorOutput(NamedTuple):
    """Predictions for Q denoising queries (training only) and, after them, N matching queries."""

    logits: Tensor  # [L, B, Q + N, C]
    boxes: Tensor  # [L, B, Q + N, 4] cxcywh in [0, 1]
    anchors: Tensor  # [B, Q + N, 4] cxcywh that entered the first layer, or what the query source has instead
    proposals: Proposals | None


class Encoded(NamedTuple):
    """What the decoder starts from."""

    memory: Tensor  # [B, S, D]
    position: Tensor  # [B, S, D] of the memory
    levels: Levels
    queries: Queries  # matching ones, whose content is complete


class Detector(nn.Module):
    """The detection transformer (DINO figure 2): tensors in, tensors out.

    Args:
        backbone: images -> {stage: [B, C, h, w]}.
        neck: stages -> list of [B, D, h, w].
        position_encoding: padding mask [B, h, w] -> [B, h, w, D].
        encoder: tokens, positions, levels -> memory [B, S, D].
        queries: memory, levels -> :class:`Queries`.
        decoder: content, anchors, memory, positions, levels, mask -> logits and boxes of every layer; the positions of
            queries that have their own come as `query_positions`.
        num_classes: C.
        num_levels: feature levels, told apart by an embedding each; None: a single one, which needs none.
        embed_dim: D.
        label_embedding: content of denoising and matching queries, one of `content`; None without denoising, where
            the queries' own content enters the decoder.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        position_encoding: nn.Module,
        encoder: nn.Module,
        queries: nn.Module,
        decoder: nn.Module,
        num_classes: int,
        num_levels: int | None = 4,
        embed_dim: int = 256,
        label_embedding: nn.Module | None = None,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.neck = neck
        self.position_encoding = position_encoding
        self.level_embedding = None if num_levels is None else nn.Embedding(num_levels, embed_dim)
        self.encoder = encoder
        self.queries = queries
        self.decoder = decoder
        self.label_embedding = label_embedding

    def forward(
        self, images: Tensor, padding_mask: Tensor | None = None, denoising: DenoisingQueries | None = None
    ) -> DetectorOutput:
        """Detect.

        Args:
            images: [B, 3, H, W] normalised, zero in padding.
            padding_mask: [B, H, W] bool, True = padding; None where nothing is padded.
            denoising: queries to rebuild, in training.
        """
        return self.decode(self.encode(images, padding_mask), denoising)

    def encode(self, images: Tensor, padding_mask: Tensor | None = None) -> Encoded:
        """All that does not depend on denoising queries; arguments as above."""
        maps = self.neck(self.backbone(images))
        levels = make_levels(maps, padding_mask)
        position = self.token_positions(levels)
        memory = self.encoder(flatten_maps(maps), position, levels)
        queries = self.queries(memory, levels)
        if self.label_embedding is not None:
            queries = queries._replace(content=self.label_embedding.matching(queries.content))
        return Encoded(memory, position, levels, queries)

    def decode(self, encoded: Encoded, denoising: DenoisingQueries | None = None) -> DetectorOutput:
        """Predictions of the denoising queries, if any, and of the matching ones."""
        memory, position, levels, queries = encoded
        content, anchors, mask = queries.content, queries.anchors, None
        if denoising is not None:
            content = torch.cat([self.label_embedding.denoising(denoising.labels), content], dim=1)
            anchors = torch.cat([self.queries.denoising_anchors(denoising.boxes), anchors], dim=1)
            mask = denoising.attention_mask(queries.content.shape[1])
        positions = self.query_positions(queries, anchors)
        own = {} if positions is None else {"query_positions": positions}
        logits, boxes = self.decoder(content, anchors, memory, position, levels, mask, **own)
        return DetectorOutput(logits, boxes, anchors, queries.proposals)

    def query_positions(self, queries: Queries, anchors: Tensor) -> Tensor | None:
        """Position encodings of queries [B, T, D], where they do not come from the decoder."""
        return queries.positions

    def token_positions(self, levels: Levels) -> Tensor:
        """Position encoding of every token, [B, S, D], with the embedding of its level."""
        if levels.padding_mask is None and type(self.position_encoding) is SinePositionEncoding:
            encoding = self.position_encoding
            settings = (encoding.embed_dim, encoding.temperature, encoding.offset)
            positions = unpadded_sines(tuple(levels.shapes), levels.valid_sizes.device, *settings)
        else:
            positions = [self.position_encoding(mask).flatten(1, 2) for mask in levels.masks]
        if self.level_embedding is not None:
            positions = [p + level for p, level in zip(positions, self.level_embedding.weight, strict=True)]
        return torch.cat(positions, dim=1).expand(len(levels.valid_sizes), -1, -1)


@kept(maxsize=2)
def unpadded_sines(
    shapes: tuple[tuple[int, int], ...], device: torch.device, embed_dim: int, temperature: float, offset: float
) -> list[Tensor]:
    """Sine position encodings of levels without padding, [1, h * w, D] each."""
    encoding = SinePositionEncoding(embed_dim, temperature, offset)
    masks = [torch.zeros(1, h, w, dtype=torch.bool, device=device) for h, w in shapes]
    return [encoding(mask).flatten(1, 2) for mask in masks]
