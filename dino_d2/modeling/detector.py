# SPDX-License-Identifier: Apache-2.0
"""The tensor core: from images to the predictions of every decoder layer."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from dino_d2.denoising import DenoisingQueries

from .contracts import (
    Backbone,
    Decoder,
    DecoderInputs,
    DenoisedQuerySource,
    DetectorOutput,
    Encoder,
    LabelContent,
    Neck,
    PositionEncoding,
    Queries,
    QuerySource,
)
from .levels import Levels, flatten_maps, make_levels


class Encoded(NamedTuple):
    """The part of a forward pass that does not depend on denoising queries."""

    memory: Tensor  # [B, S, D]
    memory_positions: Tensor  # [B, S, D]
    levels: Levels
    queries: Queries  # matching queries with complete content


class Detector(nn.Module):
    """The detection transformer (DINO figure 2): tensors in, tensors out.

    Each part is an ``nn.Module`` that fulfils one protocol of :mod:`~dino_d2.modeling.contracts`.

    Args:
        backbone: images -> feature maps by stage.
        neck: stages -> feature levels.
        position_encoding: padding mask of a level -> position encodings of its pixels.
        encoder: tokens -> memory.
        queries: memory -> matching queries; a ``DenoisedQuerySource`` for training with denoising.
        decoder: queries and memory -> logits and boxes of every layer.
        num_classes: C.
        num_levels: feature levels V, each with a learned embedding; None: a single level without one.
        embed_dim: D.
        label_embedding: content of denoising and matching queries (``queries/content.py``); None: the decoder uses
            the content of the query source unchanged, and there is no denoising.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: Neck,
        position_encoding: PositionEncoding,
        encoder: Encoder,
        queries: QuerySource,
        decoder: Decoder,
        num_classes: int,
        num_levels: int | None = 4,
        embed_dim: int = 256,
        label_embedding: LabelContent | None = None,
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
        self, images: Tensor, padding_mask: Tensor | None = None, denoising_queries: DenoisingQueries | None = None
    ) -> DetectorOutput:
        """Detect.

        Args:
            images: [B, 3, H, W] normalised, zero in padding.
            padding_mask: [B, H, W] bool, True = padding; None if nothing is padded.
            denoising_queries: Q denoising queries, in training.
        """
        return self.decode(self.encode(images, padding_mask), denoising_queries)

    def encode(self, images: Tensor, padding_mask: Tensor | None = None) -> Encoded:
        """Backbone, neck, encoder and query source; arguments as in :meth:`forward`."""
        maps = self.neck(self.backbone(images))
        levels = self.make_levels(maps, padding_mask)
        positions = self.token_positions(levels)
        memory = self.encoder(flatten_maps(maps), positions, levels)
        queries = self.queries(memory, levels)
        if self.label_embedding is not None:
            queries = queries._replace(content=self.label_embedding.matching(queries.content))
        return Encoded(memory, positions, levels, queries)

    def decode(self, encoded: Encoded, denoising_queries: DenoisingQueries | None = None) -> DetectorOutput:
        """Predictions of the denoising queries, if any, and of the matching queries."""
        queries = encoded.queries
        content, anchors, mask = queries.content, queries.anchors, None
        if denoising_queries is not None:
            # DETR checks when it is built that both parts can denoise.
            assert self.label_embedding is not None
            source = cast("DenoisedQuerySource", self.queries)
            content = torch.cat([self.label_embedding.denoising(denoising_queries.labels), content], dim=1)
            anchors = torch.cat([source.denoising_anchors(denoising_queries.boxes), anchors], dim=1)
            mask = denoising_queries.attention_mask(queries.content.shape[1])
        query_positions = self.queries.query_positions(queries, anchors, self.position_encoding)
        memory, memory_positions, levels, _ = encoded
        logits, boxes = self.decoder(
            DecoderInputs(content, anchors, query_positions, mask, memory, memory_positions, levels)
        )
        return DetectorOutput(logits, boxes, anchors, queries.proposals)

    def make_levels(self, maps: list[Tensor], padding_mask: Tensor | None) -> Levels:
        """Geometry of the feature levels; ``dino_d2.speed`` caches it."""
        return make_levels(maps, padding_mask)

    def level_positions(self, levels: Levels) -> list[Tensor]:
        """Position encodings of each level, [B, h * w, D]; ``dino_d2.speed`` caches them without padding."""
        return [self.position_encoding(mask).flatten(1, 2) for mask in levels.masks]

    def token_positions(self, levels: Levels) -> Tensor:
        """Position encodings of all tokens [B, S, D], each with the embedding of its level."""
        positions = self.level_positions(levels)
        if self.level_embedding is not None:
            positions = [p + level for p, level in zip(positions, self.level_embedding.weight, strict=True)]
        return torch.cat(positions, dim=1).expand(levels.valid_sizes.shape[0], -1, -1)
