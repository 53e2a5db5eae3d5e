# SPDX-License-Identifier: Apache-2.0
"""Positions of pixels and points."""

import pytest
import torch

from dino_d2.layers import PointPositions, RowColumnPositions
from dino_d2.layers.point_position_encoding import pixel_axes


def test_pixel_axes_span_the_unpadded_part():
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[:, 2:], mask[..., 4:] = True, True
    x, y = pixel_axes(mask)
    assert x[0, :4].tolist() == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    assert y[0, :2].tolist() == pytest.approx([1 / 4, 3 / 4])


@pytest.mark.parametrize("encoding", [PointPositions(8), RowColumnPositions(8)], ids=["points", "rows and columns"])
def test_a_pixel_and_a_point_at_its_centre_have_the_same_encoding(encoding):
    pixels = encoding(torch.zeros(1, 4, 6, dtype=torch.bool))
    point = encoding.embed(torch.tensor([1.5 / 6, 2.5 / 4]))
    torch.testing.assert_close(pixels[0, 2, 1], point[-pixels.shape[-1] :])
