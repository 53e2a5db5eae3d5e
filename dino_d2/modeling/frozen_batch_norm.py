"""Frozen batch norms folded into the convolutions before them, in training too."""

import contextlib
import logging
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d  # what timm.layers.freeze_batch_norm_2d makes

logger = logging.getLogger(__name__)


def fold_frozen_batch_norms(body: nn.Module) -> None:
    """Let each convolution do the work of the frozen batch norm that takes its output, in place.

    A frozen norm multiplies and adds per channel, as a convolution's weight and bias can: conv(x, W)·s + t is
    conv(x, W·s) + t. W·s is made anew in every forward pass, so that W learns as before. Parameters and buffers keep
    their names. Who takes whose output is seen by running ``body`` on a small image. If its maps then differ, because
    something else takes such an output too, it stays as it is.

    Args:
        body: takes [B, 3, H, W]; without frozen norms nothing happens.
    """
    if not any(isinstance(module, FrozenBatchNorm2d) for module in body.modules()):
        return
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(next(body.parameters()))
    with _in_evaluation(body), _random_norms(body):
        expected, pairs = _maps_and_pairs(body, image)
        for conv, norm in pairs:
            conv.__class__, norm.__class__ = NormedConv2d, FoldedNorm
            conv.norm_behind = (norm,)  # in a tuple: the norm's place among the modules stays where it is
        found = body(image)
    # On the meta device there are no values, so nothing to compare.
    same = image.is_meta or all(_nearly_equal(*maps) for maps in zip(found, expected, strict=True))
    if not same:
        logger.warning("The frozen batch norms of %s cannot be folded: it is right, but slower.", type(body).__name__)
        for conv, norm in pairs:
            conv.__class__, norm.__class__ = nn.Conv2d, FrozenBatchNorm2d
            del conv.norm_behind


class NormedConv2d(nn.Conv2d):
    """A convolution that applies the frozen norm behind it too."""

    norm_behind: tuple[FrozenBatchNorm2d]

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self.folded())

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias that do the work of both."""
        (norm,) = self.norm_behind
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.weight * scale[:, None, None, None], shift

    @torch.no_grad()
    def fold_for_good(self) -> None:
        """Become a plain convolution of these."""
        weight, bias = self.folded()
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)
        del self.norm_behind
        self.__class__ = nn.Conv2d


class FoldedNorm(FrozenBatchNorm2d):
    """A frozen norm whose work the convolution before it does."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@contextlib.contextmanager
def _in_evaluation(body: nn.Module) -> Iterator[None]:
    """``body`` in evaluation mode and without gradients."""
    training = body.training
    with torch.no_grad():
        body.eval()
        yield
    body.train(training)


@contextlib.contextmanager
def _random_norms(body: nn.Module) -> Iterator[None]:
    """Other values in the frozen norms: without pretrained weights they leave a map as it is, or make zeros of it."""
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
    """What ``body`` gives, and (convolution, frozen norm) where the norm takes the very tensor of the convolution."""
    maker: dict[int, nn.Conv2d] = {}
    outputs, pairs = [], []

    def note_output(conv: nn.Module, inputs: tuple, output: Tensor) -> None:
        maker[id(output)] = conv
        outputs.append(output)  # kept, so that its id stays its own

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
