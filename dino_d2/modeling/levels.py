"""The tokens of all feature levels in one row, and where they lie in the image."""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Levels(NamedTuple):
    """Geometry of the S tokens of a batch: levels finest first, row by row within a level.

    Where nothing is padded, ``padding_mask`` is None and the other fields are the same for every image.
    """

    shapes: list[tuple[int, int]]  # (h, w) of each level
    spatial_shapes: Tensor  # [L, 2] int64 (h, w)
    start_index: Tensor  # [L] int64 first token of each level
    masks: list[Tensor]  # per level [B, h, w] bool, True = padding
    padding_mask: Tensor | None  # [B, S] bool, True = padding
    valid_sizes: Tensor  # [B, L, 2] (w, h) of the part of each map that is image
    valid_ratios: Tensor  # [B, L, 2] the same divided by the size of the map


def make_levels(maps: list[Tensor], padding_mask: Tensor | None) -> Levels:
    """Geometry of feature maps.

    Args:
        maps: one [B, D, h, w] per level.
        padding_mask: [B, H, W] bool of the images, True = padding; None where nothing is padded.
    """
    shapes = tuple((m.shape[2], m.shape[3]) for m in maps)
    batch, device = maps[0].shape[0], maps[0].device
    if padding_mask is None:
        return unpadded_levels(shapes, batch, device)
    masks = [F.interpolate(padding_mask[:, None].float(), size=shape)[:, 0].bool() for shape in shapes]
    return from_masks(masks, *shape_tensors(shapes, device))._replace(
        padding_mask=torch.cat([m.flatten(1) for m in masks], dim=1)
    )


def from_masks(masks: list[Tensor], spatial_shapes: Tensor, start_index: Tensor) -> Levels:
    """All but the padding mask."""
    # The image fills the upper left corner, so the first row and column tell how far it reaches.
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


_of_cuda_graphs: list = []


def kept(maxsize: int) -> Callable:
    """Keep what a function made for the last arguments; what is traced must make it in its graph.

    A CUDA graph cannot copy from the host, so it must find such tensors on the device. It reads them by their address:
    those in use while one is captured are kept for good.
    """

    def decorate(function: Callable) -> Callable:
        @functools.lru_cache(maxsize)
        def once(*arguments):
            # Or a training step could not use what an evaluation has left.
            with torch.inference_mode(False), torch.no_grad():
                return function(*arguments)

        @functools.wraps(function)
        def call(*arguments):
            fake = type(torch.empty(0)) is not Tensor  # under a mode that makes other tensors, to count or to plan
            if fake or torch.compiler.is_compiling() or torch.jit.is_tracing():
                return function(*arguments)
            result = once(*arguments)
            if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
                _of_cuda_graphs.append(result)
            return result

        call.forget = once.cache_clear
        return call

    return decorate


@kept(maxsize=256)
def shape_tensors(shapes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """``spatial_shapes`` and ``start_index`` of :class:`Levels`."""
    starts = [0, *itertools.accumulate(h * w for h, w in shapes[:-1])]
    return torch.tensor(shapes).to(device, non_blocking=True), torch.tensor(starts).to(device, non_blocking=True)


@kept(maxsize=8)
def unpadded_levels(shapes: tuple[tuple[int, int], ...], batch: int, device: torch.device) -> Levels:
    """Geometry of a batch in which nothing is padded."""
    masks = [torch.zeros(batch, h, w, dtype=torch.bool, device=device) for h, w in shapes]
    return from_masks(masks, *shape_tensors(shapes, device))


def once_per_shape(function: Callable[[Levels], Tensor]) -> Callable[[Levels], Tensor]:
    """A function of the geometry alone, whose result is kept for the last shapes where nothing is padded."""

    @kept(maxsize=4)
    def of_shape(shapes: tuple[tuple[int, int], ...], batch: int, device: torch.device):
        return function(unpadded_levels(shapes, batch, device))

    @functools.wraps(function)
    def call(levels: Levels):
        if levels.padding_mask is not None:
            return function(levels)
        return of_shape(tuple(levels.shapes), len(levels.valid_sizes), levels.valid_sizes.device)

    return call


def flatten_maps(maps: list[Tensor]) -> Tensor:
    """One [B, D, h, w] per level -> tokens [B, S, D]."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


@once_per_shape
def pixel_centres(levels: Levels) -> Tensor:
    """Where each token lies in its image: [B, S, 2] (x, y), 0..1 over the un-padded image, beyond 1 in padding."""
    centres = []
    for i, (h, w) in enumerate(levels.shapes):
        y = torch.arange(h, dtype=torch.float32, device=levels.valid_sizes.device) + 0.5
        x = torch.arange(w, dtype=torch.float32, device=levels.valid_sizes.device) + 0.5
        grid = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], dim=-1).flatten(0, 1)  # [h * w, 2]
        centres.append(grid / levels.valid_sizes[:, None, i])
    return torch.cat(centres, dim=1)


@once_per_shape
def token_references(levels: Levels) -> Tensor:
    """Where each token lies in the padded map of every level: [B, S, L, 2] (x, y)."""
    return pixel_centres(levels)[:, :, None] * levels.valid_ratios[:, None]
