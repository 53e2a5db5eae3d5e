"""What queries start with: the content of denoising queries, made from class labels, and of matching queries.

Each class embeds the (noised) labels of denoising queries and completes the content of matching queries, so that a
decoder gets both in one form. Shapes: B images, Q denoising slots, N matching queries, D embedding, C classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LabelEmbedding(nn.Embedding):
    """A learned vector for each class; matching queries stay as they are (DINO).

    Args:
        num_classes: C.
        embed_dim: D.
    """

    def __init__(self, num_classes: int, embed_dim: int = 256):
        super().__init__(num_classes, embed_dim)

    def denoising(self, labels: Tensor) -> Tensor:
        """[B, Q] classes -> [B, Q, D]; zero for padding slots (-1)."""
        return self(labels.clamp(min=0)) * (labels >= 0)[..., None]

    def matching(self, content: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return content

    def known(self, labels: Tensor, content: Tensor) -> Tensor:
        """Matching queries [B, N, D] that look for one class [B] an image, -1 for any: the class on top of their own.

        Unlike DN-DETR's, they have learned content, and lose AP without it (`modeling.known.KnownLabelDETR`).
        """
        return content + self.denoising(labels[:, None])


class IndicatedLabelEmbedding(nn.Embedding):
    """The last channel tells what a query is for: 1 to denoise, 0 to match (DN-DETR section 4.5).

    Matching queries bring D - 1 learned channels of their own, as in DN-Deformable-DETR++.

    Args:
        num_classes: C.
        embed_dim: D, the indicator included.
    """

    def __init__(self, num_classes: int, embed_dim: int = 256):
        super().__init__(num_classes, embed_dim - 1)

    def denoising(self, labels: Tensor) -> Tensor:
        """[B, Q] classes -> [B, Q, D]; zero for padding slots (-1), the indicator too."""
        embedded = F.pad(self(labels.clamp(min=0)), (0, 1), value=1.0)
        return embedded * (labels >= 0)[..., None]

    def matching(self, content: Tensor) -> Tensor:
        """[B, N, D - 1] -> [B, N, D]."""
        return F.pad(content, (0, 1))

    def known(self, labels: Tensor, content: Tensor) -> Tensor:
        """Matching queries [B, N, D] that look for one class [B] an image, -1 for any: embedding, and indicator 1."""
        return torch.where((labels >= 0)[:, None, None], self.denoising(labels[:, None]), content)


class UnknownLabelEmbedding(IndicatedLabelEmbedding):
    """The same with one row more, an "unknown" class that every matching query starts as (DN-DETR on DAB-DETR).

    It is added to what the queries have already: zeros, or the pattern embeddings of DAB-DETR.
    """

    def __init__(self, num_classes: int, embed_dim: int = 256):
        super().__init__(num_classes + 1, embed_dim)

    def matching(self, content: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        return content + F.pad(self.weight[-1], (0, 1))
