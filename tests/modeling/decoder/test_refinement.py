# SPDX-License-Identifier: Apache-2.0
"""The loop that all decoders with refined anchors share."""

import pytest
import torch
from torch import nn

from dino_d2.modeling import LookForwardOnce, LookForwardTwice, PerLayer
from dino_d2.modeling.decoder.refinement import refine_layer_by_layer

LAYERS = 3


class Constant(nn.Module):
    """A box head that gives the same correction for any content."""

    def __init__(self, correction):
        super().__init__()
        self.correction = nn.Parameter(torch.tensor(correction))

    def forward(self, states):
        return self.correction.expand(*states.shape[:-1], 4)


def refine(box_update, box_head, anchors, run_layer=lambda i, content, anchors: content):
    content = torch.zeros(1, anchors.shape[1], 8)
    parts = (box_update, nn.Identity(), nn.Identity(), box_head)
    return refine_layer_by_layer(content, anchors, run_layer, LAYERS, *parts, anchor_eps=1e-5)


@pytest.mark.parametrize("box_update", [LookForwardOnce(), LookForwardTwice()])
def test_corrections_add_up_in_logit_space(box_update):
    anchors = torch.tensor([[[0.5, 0.4, 0.3, 0.2]]])
    boxes = refine(box_update, Constant([0.1, 0.2, 0.3, 0.4]), anchors).boxes
    for layer in range(LAYERS):
        expected = (anchors.logit() + (layer + 1) * torch.tensor([0.1, 0.2, 0.3, 0.4])).sigmoid()
        torch.testing.assert_close(boxes[layer], expected)


def test_without_a_box_update_every_layer_corrects_the_first_anchors():
    anchors = torch.tensor([[[0.5, 0.4, 0.3, 0.2]]])
    boxes = refine(None, Constant([0.1, 0.2, 0.3, 0.4]), anchors).boxes
    expected = (anchors.logit() + torch.tensor([0.1, 0.2, 0.3, 0.4])).sigmoid()
    torch.testing.assert_close(boxes, expected.expand(LAYERS, -1, -1, -1))


def test_a_layer_runs_on_the_anchors_that_the_one_before_refined_and_gets_no_gradient_through_them():
    received = []

    def run_layer(i, content, anchors):
        received.append((i, anchors))
        return content

    anchors = torch.tensor([[[0.5, 0.5]]])  # points become boxes with the first refinement
    boxes = refine(LookForwardTwice(), Constant([0.1, 0.2, 0.3, 0.4]), anchors, run_layer).boxes
    assert [i for i, _ in received] == [0, 1, 2]
    assert torch.equal(received[0][1], anchors)
    for i in (1, 2):
        torch.testing.assert_close(received[i][1], boxes[i - 1].detach())
        assert not received[i][1].requires_grad


@pytest.mark.parametrize(("box_update", "trained"), [(LookForwardOnce(), [2]), (LookForwardTwice(), [1, 2])])
def test_the_last_box_trains_its_own_layer_and_by_looking_forward_twice_the_one_before(box_update, trained):
    head = PerLayer(Constant([0.1, 0.1, 0.1, 0.1]), LAYERS)
    refine(box_update, head, torch.full((1, 1, 4), 0.4)).boxes[-1].sum().backward()
    reached = [i for i in range(LAYERS) if head[i].correction.grad is not None and bool(head[i].correction.grad.any())]
    assert reached == trained
