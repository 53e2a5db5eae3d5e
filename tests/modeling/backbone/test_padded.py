# SPDX-License-Identifier: Apache-2.0
"""A backbone that needs whole blocks of pixels, for images of any size."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from dino_d2.modeling.backbone.padded import PaddedBackbone


class Blocks(nn.Module):
    """Means over blocks of 4 and of 8 pixels; refuses an image that is no whole number of the larger ones."""

    def output_shape(self):
        return {"p2": SimpleNamespace(stride=4), "p3": SimpleNamespace(stride=8)}

    def forward(self, images):
        assert images.shape[-2] % 8 == images.shape[-1] % 8 == 0
        return {"p2": F.avg_pool2d(images, 4), "p3": F.avg_pool2d(images, 8)}


def test_maps_cover_the_image_and_nothing_beyond():
    maps = PaddedBackbone(Blocks(), multiple=8)(torch.ones(2, 3, 18, 25))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {"p2": (2, 3, 5, 7), "p3": (2, 3, 3, 4)}
    assert maps["p3"][:, :, :2, :3].eq(1).all()
    assert maps["p3"][0, 0, 2, 0] == 2 / 8  # two rows of the image, six of zeros
    assert maps["p3"][0, 0, 0, 3] == 1 / 8


def test_an_image_of_whole_blocks_is_not_padded():
    images = torch.rand(1, 3, 16, 24)
    maps = PaddedBackbone(Blocks(), multiple=8)(images)
    assert all(torch.equal(maps[name], x) for name, x in Blocks()(images).items())
