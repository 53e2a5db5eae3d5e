# SPDX-License-Identifier: Apache-2.0
"""Prediction heads: class scores and box corrections."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dino_d2.layers import MLP, autocast_is_on, inverse_sigmoid


class ClassHead(nn.Linear):
    """Linear class logits; [..., D] -> [..., C].

    The bias starts at the logit of ``prior`` (focal loss paper, section 3.3), so that the many background queries do
    not dominate the first iterations.
    """

    def __init__(self, embed_dim: int, num_classes: int, prior: float = 0.01):
        super().__init__(embed_dim, num_classes)
        nn.init.constant_(self.bias, -math.log((1 - prior) / prior))


class SoftmaxClassHead(nn.Linear):
    """Linear logits of all classes and, last, of "no object" (DETR section 3.1); [..., D] -> [..., C + 1]."""

    def __init__(self, embed_dim: int, num_classes: int):
        super().__init__(embed_dim, num_classes + 1)


class BoxHead(MLP):
    """Box correction in logit space; [..., D] -> [..., 4]. It starts at zero: the first predictions are the anchors.

    Args:
        embed_dim: D.
        size: initial correction of width and height; -2 in Deformable DETR, whose first boxes would otherwise cover
            half the image (authors' code).
    """

    def __init__(self, embed_dim: int, size: float = 0.0):
        super().__init__(embed_dim, embed_dim, 4, num_layers=3)
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.constant_(last.bias[2:], size)

    def forward(self, x: Tensor) -> Tensor:
        if not autocast_is_on(x.device.type):
            return super().forward(x)
        # bfloat16 has eight significant bits, so rounding a correction could move a box by pixels.
        with torch.autocast(x.device.type, enabled=False):
            weight = self.layers[0].weight
            assert isinstance(weight, Tensor)
            return super().forward(x.to(weight.dtype))


class PerLayer(nn.ModuleList):
    """A separate head for every decoder layer, as in Deformable DETR and detrex; DINO shares one (section D.3).

    [L, ..., D] -> [L, ..., outputs of the head].

    Args:
        head: copied for each layer.
        num_layers: L.
        first: replaces the first copy, for a first layer whose head is initialised differently.
    """

    def __init__(self, head: nn.Module, num_layers: int, first: nn.Module | None = None):
        super().__init__(copy.deepcopy(head) for _ in range(num_layers))
        if first is not None:
            self[0] = first

    def forward(self, states: Tensor) -> Tensor:
        return torch.stack([head(x) for head, x in zip(self, states, strict=True)])


def head_of_layer(head: nn.Module, layer: int) -> nn.Module:
    """The head of one layer: its own, or the shared one."""
    return head[layer] if isinstance(head, PerLayer) else head


def anchor_logits(anchors: Tensor, eps: float = 1e-3) -> Tensor:
    """Logits of anchors, to which a box head's correction is added (DINO section 3.5).

    [..., 4] cxcywh in [0, 1] -> [..., 4]; for points [..., 2], the logits of the size are zero.
    """
    return F.pad(inverse_sigmoid(anchors, eps), (0, 4 - anchors.shape[-1]))
