# SPDX-License-Identifier: Apache-2.0
"""Images of any size for backbones that need a multiple of the patch size, such as ViTDet."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class PaddedBackbone(nn.Module):
    """Pads images for a Detectron2 backbone and crops its maps to the image.

    A ViT drops pixel rows and columns that do not fill a patch, and its feature pyramid those that do not fill a cell
    of the coarsest map. The detector expects maps that cover the full image, with sizes rounded up.

    Args:
        backbone: a Detectron2 ``Backbone``; the strides of its maps are read from ``output_shape()``.
        multiple: images are padded with zeros, right and below, to a multiple of this many pixels; the stride of the
            coarsest map.
    """

    def __init__(self, backbone: nn.Module, multiple: int = 32):
        super().__init__()
        self.backbone = backbone
        self.multiple = multiple
        output_shape: Callable[[], dict[str, Any]] = backbone.output_shape  # type: ignore[assignment]  # of Detectron2
        self.strides: dict[str, int] = {name: shape.stride for name, shape in output_shape().items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] normalised images -> {name: [B, C, ⌈H / stride⌉, ⌈W / stride⌉]}."""
        height, width = images.shape[-2:]
        maps = self.backbone(pad_to_multiple(images, self.multiple))
        return {
            name: x[:, :, : -(-height // self.strides[name]), : -(-width // self.strides[name])]
            for name, x in maps.items()
        }


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """[B, 3, H, W] with zeros at the right and bottom, so that H and W become multiples of ``multiple`` pixels."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))
