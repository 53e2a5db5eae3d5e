# SPDX-License-Identifier: Apache-2.0
"""Protocols of the parts of a detector, and the types of their inputs and outputs.

Shape letters are explained in ``dino_d2/__init__.py``.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from .levels import Levels


class Proposals(NamedTuple):
    """The K best encoder tokens of each image and the predictions of the encoder's heads.

    DINO supervises the K selected tokens (rows = K), Deformable DETR all of them (rows = S).
    """

    index: Tensor  # type: ignore[assignment]  # [B, K] int64 token numbers, best first; hides tuple.index
    features: Tensor  # [B, K, D]
    logits: Tensor  # [B, rows, C]
    anchors: Tensor  # [B, K, 4] cxcywh before the encoder's correction
    boxes: Tensor  # [B, rows, 4] cxcywh after it


class Queries(NamedTuple):
    """The matching queries that a query source gives to the decoder."""

    content: Tensor  # [B, N, D]
    anchors: Tensor  # [B, N, 4] cxcywh in [0, 1], [B, N, 2] xy, or [B, N, D] embeddings
    proposals: Proposals | None  # supervised like an additional layer; None if the encoder makes none
    positions: Tensor | None = None  # [B, N, D] position encodings; None if they are computed from the anchors


class DecoderInputs(NamedTuple):
    """Inputs of a decoder: T = Q + N queries, of which the first Q are denoising queries, and the memory."""

    content: Tensor  # [B, T, D]
    anchors: Tensor  # [B, T, 4] cxcywh in [0, 1], [B, T, 2] xy, or [B, T, D] embeddings
    query_positions: Tensor | None  # [B, T, D]; None if the decoder computes them from the anchors
    mask: Tensor | None  # [T, T] or [B, T, T] bool of self-attention, True = may not attend; None: no restriction
    memory: Tensor  # [B, S, D]
    memory_positions: Tensor  # [B, S, D]
    levels: Levels


class LayerPredictions(NamedTuple):
    """Predictions of every decoder layer."""

    logits: Tensor  # [L, B, T, C]
    boxes: Tensor  # [L, B, T, 4] cxcywh in [0, 1]


class DetectorOutput(NamedTuple):
    """Predictions for Q denoising queries (training only) followed by N matching queries."""

    logits: Tensor  # [L, B, T, C]
    boxes: Tensor  # [L, B, T, 4] cxcywh in [0, 1]
    anchors: Tensor  # [B, T, 4] cxcywh that entered the first layer; some query sources have [B, T, 2] or [B, T, D]
    proposals: Proposals | None


class Backbone(Protocol):
    """Feature maps of a batch of images."""

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] normalised -> {stage: [B, channels, h, w]}."""
        ...


class Neck(Protocol):
    """Projects feature maps to levels with the same number of channels."""

    def __call__(self, features: dict[str, Tensor]) -> list[Tensor]:
        """{stage: [B, channels, h, w]} -> one [B, D, h, w] per level, finest first."""
        ...


class PositionEncoding(Protocol):
    """Position encodings of the pixels of one level."""

    def __call__(self, padding_mask: Tensor) -> Tensor:
        """[B, h, w] bool, True = padding -> [B, h, w, D]."""
        ...


class Encoder(Protocol):
    """Refines the tokens of all levels."""

    def __call__(self, tokens: Tensor, position: Tensor, levels: Levels) -> Tensor:
        """Tokens and positions, both [B, S, D] -> memory [B, S, D]."""
        ...


class QuerySource(Protocol):
    """Provides the matching queries of the decoder."""

    def __call__(self, memory: Tensor, levels: Levels) -> Queries:
        """memory [B, S, D] -> N matching queries."""
        ...

    def query_positions(self, queries: Queries, anchors: Tensor, encoding: PositionEncoding) -> Tensor | None:
        """Position encodings [B, T, D] of all queries with anchors [B, T, ...]; None if the decoder computes them."""
        ...


@runtime_checkable
class DenoisedQuerySource(QuerySource, Protocol):
    """A query source of a detector that is trained with denoising."""

    def denoising_anchors(self, boxes: Tensor) -> Tensor:
        """Noised boxes [B, Q, 4] cxcywh in [0, 1] -> anchors of denoising queries, in the form of matching ones."""
        ...


class LabelContent(Protocol):
    """Makes the content of denoising queries and completes that of matching queries."""

    #: Whether matching queries use the embedding, which then is also trained without denoising.
    serves_matching: bool

    def denoising(self, labels: Tensor) -> Tensor:
        """[B, Q] classes, -1 in padding slots -> [B, Q, D]."""
        ...

    def matching(self, content: Tensor) -> Tensor:
        """[B, N, D] or [B, N, D - 1] of the query source -> [B, N, D]."""
        ...


class Decoder(Protocol):
    """Turns queries into predictions, layer by layer."""

    def __call__(self, inputs: DecoderInputs) -> LayerPredictions: ...
