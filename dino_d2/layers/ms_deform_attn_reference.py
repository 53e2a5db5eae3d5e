# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention in plain PyTorch: the reference of the tests and the fallback of the op.

Deformable DETR (arXiv 2010.04159), equation 3.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Samples every level with `grid_sample` and sums the samples with the attention weights.

    Args:
        value: [B, S, heads, d], levels one after the other, row-major inside a level.
        spatial_shapes: [V, 2] integer (H, W) of each level.
        level_start_index: [V] integer, first token of each level.
        sampling_locations: [B, T, heads, V, R, 2] (x, y); 0..1 spans the map from edge to edge, so the centre of
            pixel i is at (i + 0.5) / size. Samples outside the map are zero.
        attention_weights: [B, T, heads, V, R], used as they are (no softmax here).

    Returns:
        [B, T, heads * d] in the dtype of `value`.
    """
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    # Sums over empty slices are zero; they define the gradient if the loop has nothing to sample.
    nothing = value[:, :0].sum() + sampling_locations[:, :0].sum() + attention_weights[:, :0].sum()
    output = value.new_zeros(batch * heads, channels, queries) + nothing.to(value.dtype)
    grids = 2 * sampling_locations - 1
    shapes, starts = spatial_shapes.tolist(), level_start_index.tolist()
    for level, ((height, width), start) in enumerate(zip(shapes, starts, strict=True)):
        tokens = value[:, start : start + height * width]
        feature_map = tokens.permute(0, 2, 3, 1).reshape(batch * heads, channels, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        weight = attention_weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        if feature_map.numel() == 0 or grid.numel() == 0:
            continue  # grid_sample refuses empty maps; there is nothing to add
        sampled = F.grid_sample(
            feature_map, grid.to(value.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
        )
        output = output + (sampled * weight.to(value.dtype)).sum(-1)
    return output.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


def sampling_locations_from_offsets(
    reference_points: Tensor, sampling_offsets: Tensor, spatial_shapes: Tensor
) -> Tensor:
    """Sampling locations from reference points and offsets (Deformable DETR, section 4.1 and appendix A.4).

    Args:
        reference_points: [B, T, V, 2] points (x, y): an offset counts pixels of its level; or [B, T, V, 4] boxes
            (cx, cy, w, h): `num_points` offsets span half the box.
        sampling_offsets: [B, T, heads, V, R, 2].
        spatial_shapes: [V, 2] integer (H, W).

    Returns:
        [B, T, heads, V, R, 2] locations in 0..1 (x, y), in the dtype that the two inputs promote to.
    """
    centre = reference_points[:, :, None, :, None, :2]
    if reference_points.shape[-1] == 2:
        size = spatial_shapes.flip(-1).to(sampling_offsets.dtype)
        return centre + sampling_offsets / size[:, None, :]
    box_size = reference_points[:, :, None, :, None, 2:]
    return centre + sampling_offsets / sampling_offsets.shape[4] * box_size * 0.5


def ms_deform_attn_fused_reference(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """The same from reference points, offsets and logits: softmax over the V * R points of a head, then sampling.

    Args:
        reference_points: [B, T, V, 2] or [B, T, V, 4]; see `sampling_locations_from_offsets`.
        sampling_offsets: [B, T, heads, V, R, 2].
        attention_logits: [B, T, heads, V, R].

    The other arguments and the result are those of `ms_deform_attn_reference`.
    """
    locations = sampling_locations_from_offsets(reference_points, sampling_offsets, spatial_shapes)
    weights = torch.softmax(attention_logits.flatten(3), dim=-1).view_as(attention_logits)
    return ms_deform_attn_reference(value, spatial_shapes, level_start_index, locations, weights)
