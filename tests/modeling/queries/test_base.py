# SPDX-License-Identifier: Apache-2.0
"""Helpers that query sources share."""

import torch

from dino_d2.modeling.contracts import Queries
from dino_d2.modeling.queries.base import AnchorQueries, repeat_for_patterns, take


def test_every_pattern_is_added_to_every_query_pattern_after_pattern():
    queries = Queries(torch.randn(2, 3, 8), torch.rand(2, 3, 4), None)
    patterns = torch.randn(2, 8)
    repeated = repeat_for_patterns(queries, patterns)
    assert repeated.content.shape == (2, 6, 8)
    for pattern in range(2):
        own = slice(3 * pattern, 3 * pattern + 3)
        assert torch.equal(repeated.content[:, own], queries.content + patterns[pattern])
        assert torch.equal(repeated.anchors[:, own], queries.anchors)


def test_take_selects_the_tokens_of_each_image():
    x = torch.arange(24).view(2, 4, 3)
    taken = take(x, torch.tensor([[3, 0], [1, 1]]))
    assert torch.equal(taken[0], x[0, [3, 0]])
    assert torch.equal(taken[1], x[1, [1, 1]])


def test_noised_boxes_stay_anchors_but_slightly_inside_0_and_1():
    boxes = torch.tensor([[[0.25, 0.5, 0.75, 0.1], [0.0, 1.0, 0.0, 1.0]]])
    anchors = AnchorQueries().denoising_anchors(boxes)
    torch.testing.assert_close(anchors[0, 0], boxes[0, 0])
    assert ((anchors[0, 1] > 0) & (anchors[0, 1] < 1)).all()
