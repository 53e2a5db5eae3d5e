"""Frozen batch norms folded into the convolutions before them, in training too."""

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d  # what timm.layers.freeze_batch_norm_2d makes


def fold_frozen_batch_norms(body: nn.Module) -> None:
    """Let each convolution do the work of the frozen batch norm that takes its output, in place.

    A frozen norm multiplies and adds per channel, as a convolution's weight and bias can: conv(x, W)·s + t is
    conv(x, W·s) + t. W·s is made anew in every forward pass, so that W learns as before. Parameters and buffers keep
    their names. Who takes whose output is seen by running ``body`` on a small image.

    Args:
        body: takes [B, 3, H, W]; without frozen norms nothing happens.
    """
    if not any(isinstance(module, FrozenBatchNorm2d) for module in body.modules()):
        return
    for conv, norm in _pairs(body):
        conv.__class__, norm.__class__ = NormedConv2d, FoldedNorm
        conv.norm_behind = (norm,)  # in a tuple: the norm's place among the modules stays where it is


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


@torch.no_grad()
def _pairs(body: nn.Module) -> list[tuple[nn.Conv2d, FrozenBatchNorm2d]]:
    """(convolution, frozen norm) where the norm takes the very tensor that the convolution gave."""
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
    training = body.training
    body.eval()(next(body.parameters()).new_zeros(1, 3, 64, 64))
    body.train(training)
    for hook in hooks:
        hook.remove()
    return pairs
