# SPDX-License-Identifier: Apache-2.0
"""Initial content of queries: denoising queries embed class labels, matching queries bring their own.

Each class embeds the (noised) labels of denoising queries and completes the content of matching queries, so that the
decoder gets both in one form.
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

    #: Whether matching queries read the embedding too, so that it is trained without denoising.
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
        """Matching queries [B, N, D] that search for one class [B] an image, -1 for any.

        The class embedding is added to the learned content, which DN-DETR's queries do not have.
        """
        return content + self.denoising(labels[:, None])


class IndicatedLabelEmbedding(nn.Embedding):
    """The last channel is an indicator: 1 for denoising queries, 0 for matching queries (DN-DETR section 4.5).

    Matching queries bring D - 1 learned channels of their own, as in DN-Deformable-DETR++.

    Args:
        num_classes: C.
        embed_dim: D, the indicator included.
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
        """Matching queries [B, N, D] that search for one class [B] an image, -1 for any: its embedding, indicator 1."""
        return torch.where((labels >= 0)[:, None, None], self.denoising(labels[:, None]), content)


class UnknownLabelEmbedding(IndicatedLabelEmbedding):
    """The same with one more row: an "unknown" class, with which every matching query starts (DN-DETR on DAB-DETR).

    It is added to the content of the query source: zeros, or the pattern embeddings of DAB-DETR.
    """

    serves_matching = True

    def __init__(self, num_classes: int, embed_dim: int = 256):
        super().__init__(num_classes + 1, embed_dim)

    def matching(self, content: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return content + F.pad(self.weight[-1], (0, 1))
