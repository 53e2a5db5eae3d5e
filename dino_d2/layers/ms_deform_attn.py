# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159, section 4.1): the op and the module."""

import math

import torch
from torch import Tensor, nn

from .heads import check_heads
from .ms_deform_attn_op import ms_deform_attn, ms_deform_attn_fused, op_is_built, use_reference_op
from .ms_deform_attn_reference import ms_deform_attn_reference

__all__ = [
    "MultiScaleDeformableAttention",
    "ms_deform_attn",
    "ms_deform_attn_fused",
    "ms_deform_attn_reference",
    "op_is_built",
    "use_reference_op",
]


class MultiScaleDeformableAttention(nn.Module):
    """Multi-head attention to `num_points` learned sampling points per level and head.

    Args:
        embed_dim: D, a multiple of `num_heads`.
        num_heads: attention heads; d = D / heads channels each.
        num_levels: V.
        num_points: R, of each head and level.

    Raises:
        ValueError: `embed_dim` is not a multiple of `num_heads`.
    """

    def __init__(self, embed_dim: int = 256, num_heads: int = 8, num_levels: int = 4, num_points: int = 4):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        self.sampling_offsets = nn.Linear(embed_dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(embed_dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Deformable DETR, appendix A.4: head m samples in direction m, point p at p pixels; weights are equal."""
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2.0 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * distances[:, None]  # [heads, 1, R, 2]
        nn.init.zeros_(self.sampling_offsets.weight)
        self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend from each query to sampling points around its reference points.

        Args:
            query: [B, T, D], position encoding already added.
            reference_points: [B, T, V, 2] (x, y) or [B, T, V, 4] (cx, cy, w, h), 0..1 over the padded map of each
                level (valid ratios already multiplied in).
            value: [B, S, D], projected here.
            spatial_shapes: [V, 2] integer (H, W).
            level_start_index: [V] integer.
            padding_mask: [B, S] boolean, True = padding: such a token's projected value is zero.

        Returns:
            [B, T, D].
        """
        batch, queries, _ = query.shape
        value = self.value_proj(value)
        if padding_mask is not None:
            value = value.masked_fill(padding_mask[..., None], 0.0)
        value = value.view(batch, -1, self.num_heads, self.embed_dim // self.num_heads)
        points_shape = (batch, queries, self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).view(*points_shape, 2)
        logits = self.attention_weights(query).view(points_shape)
        sampled = ms_deform_attn_fused(value, spatial_shapes, level_start_index, reference_points, offsets, logits)
        return self.output_proj(sampled)

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, num_levels={self.num_levels}, num_points={self.num_points}"
