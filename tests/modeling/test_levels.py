# SPDX-License-Identifier: Apache-2.0
"""Geometry of the tokens of a batch."""

import torch

from dino_d2.modeling.levels import make_levels, pixel_centres, token_references

SHAPES = ((8, 12), (4, 6))


def maps(batch=2):
    return [torch.rand(batch, 16, h, w) for h, w in SHAPES]


def test_a_mask_without_padding_gives_the_geometry_of_no_mask():
    levels, masked = make_levels(maps(), None), make_levels(maps(), torch.zeros(2, 64, 96, dtype=torch.bool))
    assert torch.equal(levels.valid_ratios, masked.valid_ratios)
    assert torch.equal(levels.spatial_shapes, masked.spatial_shapes)
    for function in (pixel_centres, token_references):
        assert torch.equal(function(levels), function(masked))


def test_centres_of_a_padded_image_are_relative_to_its_own_size():
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, 48:] = True  # the left half is image
    centres = pixel_centres(make_levels(maps(), mask))
    torch.testing.assert_close(centres[1, :, 0], 2 * centres[0, :, 0])
    torch.testing.assert_close(centres[1, :, 1], centres[0, :, 1])
