# SPDX-License-Identifier: Apache-2.0
"""Heads: what they predict before any training, and which layer uses which."""

import pytest
import torch

from dino_d2.modeling import BoxHead, ClassHead, PerLayer, SoftmaxClassHead
from dino_d2.modeling.heads import anchor_logits, head_of_layer


def test_every_class_starts_at_its_prior():
    scores = ClassHead(16, 5, prior=0.02)(torch.zeros(3, 16)).sigmoid()
    torch.testing.assert_close(scores, torch.full((3, 5), 0.02))


def test_softmax_has_a_logit_for_no_object():
    assert SoftmaxClassHead(16, 5)(torch.rand(2, 3, 16)).shape == (2, 3, 6)


def test_boxes_start_at_their_anchors():
    anchors = torch.rand(7, 4) * 0.8 + 0.1
    boxes = (BoxHead(16)(torch.rand(7, 16)) + anchor_logits(anchors)).sigmoid()
    torch.testing.assert_close(boxes, anchors)


def test_points_start_as_small_boxes_around_them():
    points = torch.rand(7, 2) * 0.8 + 0.1
    boxes = (BoxHead(16, size=-2.0)(torch.rand(7, 16)) + anchor_logits(points)).sigmoid()
    size = torch.full((7, 2), -2.0).sigmoid()
    torch.testing.assert_close(boxes, torch.cat([points, size], dim=1))


def test_a_box_correction_is_made_in_float32_under_autocast():
    head, x = BoxHead(16), torch.rand(4, 16)
    torch.nn.init.normal_(head.layers[-1].weight)
    expected = head(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(x), expected)
        assert head(x.bfloat16()).dtype == torch.float32


def test_each_layer_has_its_own_copy_of_the_head():
    torch.manual_seed(0)
    head, first = ClassHead(8, 3), ClassHead(8, 3)
    heads, states = PerLayer(head, 3, first=first), torch.rand(3, 2, 8)
    assert heads[0] is first
    assert len({id(h) for h in heads}) == 3
    assert torch.equal(heads[1].weight, heads[2].weight)
    torch.nn.init.zeros_(heads[2].weight)
    assert torch.equal(heads(states), torch.stack([h(x) for h, x in zip(heads, states, strict=True)]))


@pytest.mark.parametrize("layer", [0, 1])
def test_the_head_of_a_layer(layer):
    shared = ClassHead(8, 3)
    assert head_of_layer(shared, layer) is shared
    heads = PerLayer(shared, 2)
    assert head_of_layer(heads, layer) is heads[layer]
