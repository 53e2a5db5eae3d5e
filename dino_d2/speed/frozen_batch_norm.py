# SPDX-License-Identifier: Apache-2.0
"""Frozen batch norms fused into the convolutions before them, in training too."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d  # what timm.layers.freeze_batch_norm_2d makes

logger = logging.getLogger(__name__)


def fuse_frozen_batch_norms(body: nn.Module) -> None:
    """Let each convolution apply the frozen batch norm that follows it, in place.

    A frozen norm multiplies and adds per channel, as a convolution's weight and bias can: conv(x, W)·s + t is
    conv(x, W·s) + t. W·s is computed in every forward pass, so that W is trained as before; parameters and buffers
    keep their names. Conv-norm pairs are found by tracing one forward pass on a small image. If the fused model then
    gives other maps, because another module also reads the output of such a convolution, nothing is changed.

    Args:
        body: takes [B, 3, H, W]; not changed if it has no frozen norms.
    """
    if not any(isinstance(module, FrozenBatchNorm2d) for module in body.modules()):
        return
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(next(body.parameters()))
    with _evaluation_mode(body), _random_norms(body):
        expected, pairs = _maps_and_pairs(body, image)
        for conv, norm in pairs:
            conv.__class__, norm.__class__ = NormedConv2d, FusedNorm
            assert isinstance(conv, NormedConv2d)
            conv.next_norm = (norm,)  # in a tuple, so that the norm is not registered as a submodule twice
        found = body(image)
    # On the meta device there are no values to compare.
    same = image.is_meta or all(_nearly_equal(*maps) for maps in zip(found, expected, strict=True))
    if not same:
        logger.warning("Batch norms of %s could not be fused; results are correct, but slower.", type(body).__name__)
        for conv, norm in pairs:
            conv.__class__, norm.__class__ = nn.Conv2d, FrozenBatchNorm2d
            del conv.next_norm


class NormedConv2d(nn.Conv2d):
    """A convolution that also applies the frozen norm after it."""

    next_norm: tuple[FrozenBatchNorm2d]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self.fused())

    def fused(self) -> tuple[Tensor, Tensor]:
        """Weight [out, in, ...] and bias [out] of the convolution followed by the norm."""
        (norm,) = self.next_norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift

    @torch.no_grad()
    def fuse_permanently(self) -> None:
        """Become a plain convolution with the fused weight and bias."""
        weight, bias = self.fused()
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        del self.next_norm
        self.__class__ = nn.Conv2d  # type: ignore[assignment]  # back to the base class


class FusedNorm(FrozenBatchNorm2d):
    """A frozen norm that the convolution before it applies."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@contextlib.contextmanager
def _evaluation_mode(body: nn.Module) -> Iterator[None]:
    """``body`` in evaluation mode and without gradients."""
    training = body.training
    with torch.no_grad():
        body.eval()
        yield
    body.train(training)


@contextlib.contextmanager
def _random_norms(body: nn.Module) -> Iterator[None]:
    """Context with random values in the frozen norms: untrained norms (identity or zero) would hide a wrong pair."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in body.modules() if isinstance(module, FrozenBatchNorm2d)]
    buffers = [buffer for norm in norms for buffer in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    before = [buffer.clone() for buffer in buffers]
    for buffer in buffers:
        buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    yield
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def _nearly_equal(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-3 * expected.abs().max())


def _maps_and_pairs(body: nn.Module, image: Tensor) -> tuple[list[Tensor], list[tuple[nn.Conv2d, FrozenBatchNorm2d]]]:
    """The maps of ``body``, and (convolution, frozen norm) pairs in which the norm reads the convolution's output."""
    maker: dict[int, nn.Conv2d] = {}
    outputs, pairs = [], []

    def note_output(conv: nn.Module, inputs: tuple, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        maker[id(output)] = conv
        outputs.append(output)  # keeps the tensor alive, so that its id is not reused

    def note_input(norm: nn.Module, inputs: tuple) -> None:
        if id(inputs[0]) in maker:
            pairs.append((maker[id(inputs[0])], norm))

    hooks = []
    for module in body.modules():
        if type(module) is nn.Conv2d:
            hooks.append(module.register_forward_hook(note_output))
        elif isinstance(module, FrozenBatchNorm2d):
            hooks.append(module.register_forward_pre_hook(note_input))
    maps = body(image)
    for hook in hooks:
        hook.remove()
    return maps, pairs
