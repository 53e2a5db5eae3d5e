# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR's queries: points with learned patterns."""

import torch

from dino_d2.layers import PointPositions
from dino_d2.modeling import GridPointQueries
from dino_d2.modeling.queries.points import PointQueries


def test_every_pattern_stands_at_every_point_pattern_after_pattern():
    queries = PointQueries(num_points=4, num_patterns=3, embed_dim=8)
    content, anchors, proposals, positions = queries(torch.rand(2, 7, 8), None)
    assert content.shape == (2, 12, 8)
    assert proposals is positions is None
    for pattern in range(3):
        own = slice(4 * pattern, 4 * pattern + 4)
        assert torch.equal(content[:, own], queries.patterns.weight[pattern].expand(2, 4, 8))
        assert torch.equal(anchors[1, own], queries.points.weight)


def test_points_are_encoded_with_the_weights_of_the_pixels_positions():
    encoding, points = PointPositions(8), torch.rand(1, 4, 2)
    queries = PointQueries(num_points=4, num_patterns=1, embed_dim=8)
    assert torch.equal(queries.query_positions(None, points, encoding), encoding.embed(points))


def test_noised_boxes_are_denoised_from_their_centres():
    boxes = torch.rand(2, 3, 4)
    assert torch.equal(PointQueries(embed_dim=8).denoising_anchors(boxes), boxes[..., :2])


def test_grid_points_cover_the_image_column_by_column():
    points = GridPointQueries(num_points=9, num_patterns=2, embed_dim=4)(torch.zeros(1, 1, 4), None).anchors[0]
    assert points.shape == (18, 2)
    assert torch.allclose(points[:3], torch.tensor([[1 / 6, 1 / 6], [1 / 6, 0.5], [1 / 6, 5 / 6]]))
    assert torch.equal(points[:9], points[9:])


def test_grid_points_are_neither_trained_nor_saved():
    queries = GridPointQueries(num_points=9, num_patterns=2, embed_dim=4)
    assert [name for name, _ in queries.named_parameters()] == ["patterns.weight"]
    assert list(queries.state_dict()) == ["patterns.weight"]
