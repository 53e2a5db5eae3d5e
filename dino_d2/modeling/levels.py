# SPDX-License-Identifier: Apache-2.0
"""The sequence of tokens of all feature levels, and their positions in the image."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Shapes = tuple[tuple[int, int], ...]  # (h, w) of each level, finest first


class Levels(NamedTuple):
    """Geometry of the S tokens of a batch: finest level first, row by row within a level.

    If nothing is padded, ``padding_mask`` is None and the other fields are the same for every image.
    """

    shapes: list[tuple[int, int]]  # (h, w) of each level
    spatial_shapes: Tensor  # [V, 2] int64 (h, w)
    start_index: Tensor  # [V] int64 first token of each level
    masks: list[Tensor]  # per level [B, h, w] bool, True = padding
    padding_mask: Tensor | None  # [B, S] bool, True = padding
    valid_sizes: Tensor  # [B, V, 2] (w, h) of the un-padded part of each map
    valid_ratios: Tensor  # [B, V, 2] the same divided by the size of the map


def make_levels(
    maps: list[Tensor],
    padding_mask: Tensor | None,
    shape_tensors: Callable[[Shapes, torch.device], tuple[Tensor, Tensor]] | None = None,
) -> Levels:
    """Geometry of feature maps.

    Args:
        maps: one [B, D, h, w] per level.
        padding_mask: [B, H, W] bool of the images, True = padding; None if nothing is padded.
        shape_tensors: makes ``spatial_shapes`` and ``start_index``; ``dino_d2.speed`` passes a cached function.
    """
    shapes = tuple((m.shape[2], m.shape[3]) for m in maps)
    batch, device = maps[0].shape[0], maps[0].device
    if padding_mask is None:
        return unpadded_levels(shapes, batch, device)
    masks = [F.interpolate(padding_mask[:, None].float(), size=shape)[:, 0].bool() for shape in shapes]
    return from_masks(masks, *(shape_tensors or tensors_of_shapes)(shapes, device))._replace(
        padding_mask=torch.cat([m.flatten(1) for m in masks], dim=1)
    )


def from_masks(masks: list[Tensor], spatial_shapes: Tensor, start_index: Tensor) -> Levels:
    """Levels from their masks; the padding mask of all tokens is left None."""
    # The image fills the upper left corner, so the first row and column give its extent.
    valid_sizes = torch.stack([torch.stack([(~m[:, 0]).sum(1), (~m[:, :, 0]).sum(1)], -1) for m in masks], 1)
    return Levels(
        shapes=[(m.shape[1], m.shape[2]) for m in masks],
        spatial_shapes=spatial_shapes,
        start_index=start_index,
        masks=masks,
        padding_mask=None,
        valid_sizes=valid_sizes,
        valid_ratios=valid_sizes / spatial_shapes.flip(-1),
    )


def tensors_of_shapes(shapes: Shapes, device: torch.device) -> tuple[Tensor, Tensor]:
    """``spatial_shapes`` and ``start_index`` of :class:`Levels`."""
    starts = [0, *itertools.accumulate(h * w for h, w in shapes[:-1])]
    return torch.tensor(shapes).to(device, non_blocking=True), torch.tensor(starts).to(device, non_blocking=True)


def unpadded_levels(shapes: Shapes, batch: int, device: torch.device) -> Levels:
    """Geometry of a batch in which nothing is padded."""
    masks = [torch.zeros(batch, h, w, dtype=torch.bool, device=device) for h, w in shapes]
    return from_masks(masks, *tensors_of_shapes(shapes, device))


def flatten_maps(maps: list[Tensor]) -> Tensor:
    """One [B, D, h, w] per level -> tokens [B, S, D]."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def pixel_centres(levels: Levels) -> Tensor:
    """Centre of each token in its image: [B, S, 2] (x, y), 0..1 over the un-padded image, beyond 1 in padding."""
    centres = []
    for i, (h, w) in enumerate(levels.shapes):
        y = torch.arange(h, dtype=torch.float32, device=levels.valid_sizes.device) + 0.5
        x = torch.arange(w, dtype=torch.float32, device=levels.valid_sizes.device) + 0.5
        grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1).flatten(0, 1)  # [h * w, 2]
        centres.append(grid / levels.valid_sizes[:, None, i])
    return torch.cat(centres, dim=1)


def token_references(levels: Levels) -> Tensor:
    """Centre of each token in the padded map of every level: [B, S, V, 2] (x, y)."""
    return pixel_centres(levels)[:, :, None] * levels.valid_ratios[:, None]
