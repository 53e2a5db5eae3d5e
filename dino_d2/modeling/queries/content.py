# SPDX-License-Identifier: Apache-2.0
"""Initial content of queries: class embeddings for denoising queries, the query source's content for matching queries.

Each class embeds the (noised) labels of denoising queries and completes the content of matching queries, so that both
have the same form in the decoder.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelEmbedding(nn.Embedding):
    """A learned vector for each class; matching queries are left unchanged (DINO).

    Args:
        num_classes: C.
        embed_dim: D.
    """

    #: Whether matching queries use the embedding, which then is also trained without denoising.
    serves_matching = False

    def __init__(self, num_classes: int, embed_dim: int = 256):
        super().__init__(num_classes, embed_dim)

    def denoising(self, labels: Tensor) -> Tensor:
        """[B, Q] classes -> [B, Q, D]; zero for padding slots (-1)."""
        return self(labels.clamp(min=0)) * (labels >= 0)[..., None]

    def matching(self, content: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return content

    def known(self, labels: Tensor, content: Tensor) -> Tensor:
        """Matching queries [B, N, D] that search for one class [B] per image, -1 for any.

        The class embedding is added to the learned content, which DN-DETR's queries do not have.
        """
        return content + self.denoising(labels[:, None])


class IndicatedLabelEmbedding(nn.Embedding):
    """The last channel is an indicator: 1 for denoising queries, 0 for matching queries (DN-DETR section 4.5).

    The query source provides D - 1 learned channels for matching queries, as in DN-Deformable-DETR++.

    Args:
        num_classes: C.
        embed_dim: D, including the indicator.
    """

    serves_matching = False

    def __init__(self, num_classes: int, embed_dim: int = 256):
        super().__init__(num_classes, embed_dim - 1)

    def denoising(self, labels: Tensor) -> Tensor:
        """[B, Q] classes -> [B, Q, D]; zero for padding slots (-1), including the indicator."""
        embedded = F.pad(self(labels.clamp(min=0)), (0, 1), value=1.0)
        return embedded * (labels >= 0)[..., None]

    def matching(self, content: Tensor) -> Tensor:
        """[B, N, D - 1] -> [B, N, D]."""
        return F.pad(content, (0, 1))

    def known(self, labels: Tensor, content: Tensor) -> Tensor:
        """Matching queries [B, N, D] that search for one class [B] per image, -1 for any: embedding and indicator 1."""
        return torch.where((labels >= 0)[:, None, None], self.denoising(labels[:, None]), content)


class UnknownLabelEmbedding(IndicatedLabelEmbedding):
    """Has another row for an "unknown" class, from which every matching query starts (DN-DETR on DAB-DETR).

    The row is added to the content of the query source, which is zero or a pattern embedding of DAB-DETR.
    """

    serves_matching = True

    def __init__(self, num_classes: int, embed_dim: int = 256):
        super().__init__(num_classes + 1, embed_dim)

    def matching(self, content: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return content + F.pad(self.weight[-1], (0, 1))
