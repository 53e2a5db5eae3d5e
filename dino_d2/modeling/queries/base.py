# SPDX-License-Identifier: Apache-2.0
"""Base classes and helpers of query sources."""

import torch
from torch import Tensor, nn

from dino_d2.layers import inverse_sigmoid
from dino_d2.modeling.contracts import PositionEncoding, Queries


class BaseQueries(nn.Module):
    """A query source whose position encodings, if any, come with the queries."""

    def query_positions(self, queries: Queries, anchors: Tensor, encoding: PositionEncoding) -> Tensor | None:
        """[B, N, D], or None if the decoder computes positions from the anchors."""
        return queries.positions


class AnchorQueries(BaseQueries):
    """A query source whose anchors are boxes."""

    def denoising_anchors(self, boxes: Tensor) -> Tensor:
        """Noised boxes [B, Q, 4] cxcywh in [0, 1] as anchors [B, Q, 4] of denoising queries.

        The boxes pass through the logit and back, as in the authors' code, which clamps them slightly inside 0 and 1.
        """
        return inverse_sigmoid(boxes).sigmoid()


def repeat_for_patterns(queries: Queries, patterns: Tensor) -> Queries:
    """Add several learned patterns to every query (Anchor DETR section 3.2): N becomes patterns times N.

    Args:
        queries: content [B, N, D] and anchors [B, N, 4].
        patterns: [number of patterns, D].

    Returns:
        all queries with the first pattern, then all with the second, and so on.
    """
    content = (queries.content[:, None] + patterns[:, None]).flatten(1, 2)
    return queries._replace(content=content, anchors=queries.anchors.repeat(1, len(patterns), 1))


def take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of [B, S, D] by [B, K] token numbers -> [B, K, D]."""
    return torch.gather(x, 1, index[..., None].expand(-1, -1, x.shape[-1]))
