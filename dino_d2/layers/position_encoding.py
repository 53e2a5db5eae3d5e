# SPDX-License-Identifier: Apache-2.0
"""Sine position encodings of pixels (for the memory) and of anchors (for the queries)."""

import math

import torch
from torch import Tensor, nn


def sine_embedding(positions: Tensor, dim: int, temperature: float) -> Tensor:
    """Sine and cosine features of normalised coordinates.

    Args:
        positions: [..., n] coordinates, 1.0 being one turn of the slowest wave.
        dim: features per coordinate, even; sine and cosine alternate.
        temperature: ratio between the slowest and the fastest wave.

    Returns:
        [..., n * dim], the features of the first coordinate first.
    """
    exponent = torch.arange(dim, device=positions.device) // 2 * 2 / dim
    wave_length = temperature**exponent
    angle = (positions * (2 * math.pi))[..., None] / wave_length  # [..., n, dim]
    features = torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], dim=-1)
    return features.flatten(-3)


def anchor_embedding(anchors: Tensor, dim: int, temperature: float = 10000.0) -> Tensor:
    """Sine features of anchors, ``dim`` per coordinate, in the order y, x, w, h (DAB-DETR section 4).

    ``anchors`` is [..., 4] normalised cxcywh, or [..., 2] normalised xy; returns [..., 4 * dim] or [..., 2 * dim].
    """
    order = [1, 0, 2, 3][: anchors.shape[-1]]
    return sine_embedding(anchors[..., order], dim, temperature)


class SinePositionEncoding(nn.Module):
    """Two-dimensional sine encoding over the un-padded part of each image (DETR appendix A.4).

    Args:
        embed_dim: D; half of the features encode y, the other half x.
        temperature: 20 in DINO (Table 8, ``pe_temperature``), 10000 in DETR.
        offset: added to the pixel index before division; -0.5 in Deformable DETR, 0 in DINO and DETR.
    """

    def __init__(self, embed_dim: int = 256, temperature: float = 20.0, offset: float = 0.0):
        super().__init__()
        if embed_dim % 4:
            raise ValueError(f"embed_dim must be a multiple of 4 (sine and cosine of y and x), got {embed_dim}")
        self.embed_dim = embed_dim
        self.temperature = temperature
        self.offset = offset

    def forward(self, padding_mask: Tensor) -> Tensor:
        """[B, H, W] boolean mask (True = padding) -> [B, H, W, D] float32."""
        inside = ~padding_mask
        y = inside.cumsum(1, dtype=torch.float32)
        x = inside.cumsum(2, dtype=torch.float32)
        y = (y + self.offset) / (y[:, -1:, :] + 1e-6)
        x = (x + self.offset) / (x[:, :, -1:] + 1e-6)
        return sine_embedding(torch.stack([y, x], dim=-1), self.embed_dim // 2, self.temperature)
