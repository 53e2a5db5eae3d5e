# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR's decoder: anchors that move from layer to layer."""

import pytest
import torch

from dino_d2.modeling import BoxHead, ClassHead, DynamicAnchorDecoder, LookForwardOnce, LookForwardTwice

from .test_conditional import CLASSES, DIM, LAYERS, QUERIES, SIZES, inputs


@pytest.mark.parametrize("update", [LookForwardOnce, LookForwardTwice])
def test_anchors_stay_where_no_head_moves_them(update):
    anchors = torch.rand(2, QUERIES, 4) * 0.6 + 0.2
    decoder = DynamicAnchorDecoder(ClassHead(DIM, CLASSES), BoxHead(DIM), update(), **SIZES)
    _, boxes = decoder(inputs(anchors))
    torch.testing.assert_close(boxes, anchors.expand(LAYERS, -1, -1, -1))


@pytest.mark.parametrize(("update", "reaches"), [(LookForwardOnce, False), (LookForwardTwice, True)])
def test_the_loss_of_a_layer_reaches_the_box_of_the_one_before_if_it_looks_forward_twice(update, reaches):
    torch.manual_seed(0)
    head = BoxHead(DIM)
    torch.nn.init.normal_(head.layers[-1].weight, std=0.1)
    decoder = DynamicAnchorDecoder(ClassHead(DIM, CLASSES), head, update(), **SIZES)
    corrections = []

    def keep(module, inputs, correction):
        correction.retain_grad()
        corrections.append(correction)

    head.register_forward_hook(keep)
    _, boxes = decoder(inputs(torch.rand(2, QUERIES, 4) * 0.6 + 0.2))
    boxes[-1].sum().backward()
    reached = [c.grad is not None and bool(c.grad.any()) for c in corrections]
    assert reached[-1]
    assert any(reached[:-1]) == reaches
