# SPDX-License-Identifier: Apache-2.0
"""Cached geometry that depends only on the image size.

Replaces :class:`~dino_d2.modeling.Detector`, the deformable encoder and the proposal heads by subclasses whose
geometry is cached for batches without padding; docs/performance.md has the gain.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from dino_d2.layers import SinePositionEncoding
from dino_d2.modeling import DeformableEncoder, Detector, ObjectnessProposalHead, ProposalHead
from dino_d2.modeling.levels import (
    Levels,
    Shapes,
    make_levels,
    tensors_of_shapes,
    token_references,
    unpadded_levels,
)

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_of_cuda_graphs: list[object] = []


class Cached(Protocol[P, R_co]):
    """A function with a cache."""

    forget: Callable[[], None]

    def __call__(self, *arguments: P.args, **named: P.kwargs) -> R_co: ...


def cached(maxsize: int) -> Callable[[Callable[P, R]], Cached[P, R]]:
    """Cache the tensors that a function made for its last arguments; a traced graph computes them itself.

    A CUDA graph cannot copy from the host, so it needs these tensors on the device. It reads them by their address, so
    tensors used while a graph is captured are never freed.
    """

    def decorate(function: Callable[P, R]) -> Cached[P, R]:
        def compute(*arguments: P.args, **named: P.kwargs) -> R:
            # Otherwise a training step could not use tensors that an evaluation has cached.
            with torch.inference_mode(False), torch.no_grad():
                return function(*arguments, **named)

        cache = functools.lru_cache(maxsize)(compute)
        once = cast("Callable[P, R]", cache)  # a cache's own type has no parameters

        @functools.wraps(function)
        def call(*arguments: P.args, **named: P.kwargs) -> R:
            fake = type(torch.empty(0)) is not Tensor  # FakeTensorMode and similar modes, which must not fill the cache
            if fake or torch.compiler.is_compiling() or torch.jit.is_tracing():
                return function(*arguments, **named)
            result = once(*arguments, **named)
            if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
                _of_cuda_graphs.append(result)
            return result

        with_cache = cast("Cached[P, R]", call)
        with_cache.forget = cache.cache_clear
        return with_cache

    return decorate


cached_shape_tensors = cached(maxsize=256)(tensors_of_shapes)
cached_levels = cached(maxsize=8)(unpadded_levels)


def once_per_shape(function: Callable[[Levels], R]) -> Callable[[Levels], R]:
    """A function of the geometry, cached for the last shapes of batches without padding."""

    @cached(maxsize=4)
    def of_shape(shapes: Shapes, batch: int, device: torch.device) -> R:
        return function(unpadded_levels(shapes, batch, device))

    @functools.wraps(function)
    def call(levels: Levels) -> R:
        if levels.padding_mask is not None:
            return function(levels)
        return of_shape(tuple(levels.shapes), levels.valid_sizes.shape[0], levels.valid_sizes.device)

    return call


cached_references = once_per_shape(token_references)
cached_anchors = once_per_shape(ProposalHead.token_anchors)


@cached(maxsize=2)
def unpadded_sines(
    shapes: Shapes, device: torch.device, embed_dim: int, temperature: float, offset: float
) -> list[Tensor]:
    """Sine position encodings of levels without padding, [1, h * w, D] each."""
    encoding = SinePositionEncoding(embed_dim, temperature, offset)
    masks = [torch.zeros(1, h, w, dtype=torch.bool, device=device) for h, w in shapes]
    return [encoding(mask).flatten(1, 2) for mask in masks]


class CachedDetector(Detector):
    """A detector whose levels and sine position encodings are cached."""

    def make_levels(self, maps: list[Tensor], padding_mask: Tensor | None) -> Levels:
        if padding_mask is not None:
            return make_levels(maps, padding_mask, cached_shape_tensors)
        shapes = tuple((m.shape[2], m.shape[3]) for m in maps)
        return cached_levels(shapes, maps[0].shape[0], maps[0].device)

    def level_positions(self, levels: Levels) -> list[Tensor]:
        encoding = self.position_encoding
        if levels.padding_mask is not None or type(encoding) is not SinePositionEncoding:
            return super().level_positions(levels)
        settings = (encoding.embed_dim, encoding.temperature, encoding.offset)
        return unpadded_sines(tuple(levels.shapes), levels.valid_sizes.device, *settings)


class CachedDeformableEncoder(DeformableEncoder):
    """A deformable encoder whose reference points are cached."""

    @staticmethod
    def reference_points(levels: Levels) -> Tensor:
        return cached_references(levels)


class CachedProposalHead(ProposalHead):
    """A proposal head whose anchors are cached."""

    @staticmethod
    def token_anchors(levels: Levels) -> tuple[Tensor, Tensor]:
        return cached_anchors(levels)


class CachedObjectnessProposalHead(ObjectnessProposalHead):
    """The same for Deformable DETR's proposals."""

    @staticmethod
    def token_anchors(levels: Levels) -> tuple[Tensor, Tensor]:
        return cached_anchors(levels)


_CACHED = {
    Detector: CachedDetector,
    DeformableEncoder: CachedDeformableEncoder,
    ProposalHead: CachedProposalHead,
    ObjectnessProposalHead: CachedObjectnessProposalHead,
}


def cache_geometry(model: nn.Module) -> None:
    """Let the parts of a model cache their geometry, in place; subclasses defined by users are not changed."""
    for module in model.modules():
        if type(module) in _CACHED:
            module.__class__ = _CACHED[type(module)]
