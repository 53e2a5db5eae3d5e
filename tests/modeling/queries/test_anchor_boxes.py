# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR's queries: learned anchors, and patterns at each of them."""

import torch

from dino_d2.modeling import AnchorBoxQueries
from dino_d2.modeling.queries.anchor_boxes import PatternBoxQueries


def test_anchors_are_learned_in_logit_space_and_content_is_zero():
    queries = AnchorBoxQueries(num_queries=5, embed_dim=8)
    content, anchors, *_ = queries(torch.rand(3, 7, 8), None)
    assert content.shape == (3, 5, 8)
    assert content.eq(0).all()
    assert torch.equal(anchors, queries.anchor_logits.weight.sigmoid()[None].repeat(3, 1, 1))


def test_every_pattern_stands_at_every_anchor_pattern_after_pattern():
    queries = PatternBoxQueries(num_queries=4, embed_dim=8, num_patterns=3)
    content, anchors, *_ = queries(torch.rand(2, 7, 8), None)
    assert content.shape == (2, 12, 8)
    for pattern in range(3):
        own = slice(4 * pattern, 4 * pattern + 4)
        assert torch.equal(content[:, own], queries.patterns.weight[pattern].expand(2, 4, 8))
        assert torch.equal(anchors[1, own], queries.anchor_logits.weight.sigmoid())
