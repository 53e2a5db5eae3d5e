# SPDX-License-Identifier: Apache-2.0
"""Position encodings of the deformable decoder's queries."""

import torch

from dino_d2.layers import anchor_embedding
from dino_d2.modeling import OwnPosition, ScaledAnchorPosition
from dino_d2.modeling.decoder.query_position import AnchorPosition

DIM = 32


def test_positions_are_computed_from_the_sine_features_of_the_anchors():
    head, anchors = AnchorPosition(DIM), torch.rand(1, 3, 4)
    first, second = head.layers
    expected = second(first(anchor_embedding(anchors, DIM // 2)).relu())
    torch.testing.assert_close(head(anchors, None, None), expected)


def test_content_scales_the_positions_from_the_second_layer_on():
    head = ScaledAnchorPosition(DIM)
    anchors, content = torch.rand(1, 3, 4), torch.rand(1, 3, DIM)
    plain = head(anchors, None, None)
    assert torch.allclose(head(anchors, content, None), head.scale(content) * plain)


def test_positions_of_the_query_source_are_used_in_every_layer():
    positions = torch.rand(1, 3, DIM)
    for content in (None, torch.rand(1, 3, DIM)):
        assert OwnPosition()(torch.rand(1, 3, 4), content, positions) is positions
