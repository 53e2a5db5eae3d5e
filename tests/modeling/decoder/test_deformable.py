# SPDX-License-Identifier: Apache-2.0
"""Box updates: who learns from whose loss (DINO figure 6)."""

import pytest
import torch

from dino_d2.modeling import (
    BoxHead,
    ClassHead,
    DecoderInputs,
    DeformableDecoder,
    LookForwardOnce,
    LookForwardTwice,
    PerLayer,
)
from dino_d2.modeling.levels import flatten_maps, make_levels

DIM, CLASSES, LAYERS = 32, 5, 3


def inputs_of(maps, anchors):
    memory = flatten_maps(maps)
    content = torch.rand(1, 6, DIM)
    return DecoderInputs(content, anchors, None, None, memory, torch.zeros_like(memory), make_levels(maps, None))


def decode(box_update):
    torch.manual_seed(0)
    decoder = DeformableDecoder(
        ClassHead(DIM, CLASSES),
        BoxHead(DIM),
        box_update,
        num_layers=LAYERS,
        embed_dim=DIM,
        feedforward_dim=64,
        num_heads=4,
        num_levels=2,
        num_points=2,
    )
    torch.nn.init.normal_(decoder.box_head.layers[-1].weight, std=0.1)
    maps = [torch.rand(1, DIM, 8, 8), torch.rand(1, DIM, 4, 4)]
    anchors = torch.rand(1, 6, 4) * 0.4 + 0.2
    logits, boxes = decoder(inputs_of(maps, anchors))
    return decoder, anchors, logits, boxes


def reached_through_the_box(decoder, boxes, layer, earlier):
    """Whether the box loss of ``layer`` reaches ``earlier`` in another way than through the layers' states.

    The states are cut by making every later layer ignore its content: only the chain of boxes is left.
    """
    parameter = decoder.layers[earlier].feed_forward.linear2.weight
    grad = torch.autograd.grad(boxes[layer].sum(), parameter, retain_graph=True, allow_unused=True)[0]
    return grad is not None and bool(grad.abs().sum() > 0)


class CutStates(torch.nn.Module):
    """Wraps a decoder layer so that no gradient passes from its output to its input content."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.feed_forward = layer.feed_forward

    def forward(self, x, *arguments):
        return self.layer(x.detach(), *arguments)


@pytest.mark.parametrize(
    ("box_update", "layer", "earlier", "expected"),
    [
        (LookForwardOnce(), 1, 1, True),
        (LookForwardOnce(), 1, 0, False),
        (LookForwardTwice(), 1, 1, True),
        (LookForwardTwice(), 1, 0, True),  # the loss of layer 1 improves the anchor that layer 0 made
        (LookForwardTwice(), 2, 1, True),
        (LookForwardTwice(), 2, 0, False),  # but no further back than one layer
    ],
)
def test_which_layers_learn_from_a_box_loss(monkeypatch, box_update, layer, earlier, expected):
    init = DeformableDecoder.__init__

    def cut(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.layers = torch.nn.ModuleList(CutStates(each) for each in self.layers)

    monkeypatch.setattr(DeformableDecoder, "__init__", cut)
    decoder, _, _, boxes = decode(box_update)
    assert reached_through_the_box(decoder, boxes, layer, earlier) is expected


def test_the_box_update_changes_gradients_and_no_values():
    once, twice = decode(LookForwardOnce()), decode(LookForwardTwice())
    assert torch.equal(once[3], twice[3])
    assert torch.equal(once[2], twice[2])


def test_with_heads_at_zero_every_layer_predicts_the_anchors():
    decoder, anchors, _, _ = decode(LookForwardTwice())
    torch.nn.init.zeros_(decoder.box_head.layers[-1].weight)
    maps = [torch.rand(1, DIM, 8, 8), torch.rand(1, DIM, 4, 4)]
    _, boxes = decoder(inputs_of(maps, anchors))
    assert torch.allclose(boxes, anchors.expand_as(boxes), atol=1e-5)


def test_heads_of_their_own_serve_their_layer_alone():
    """Equal copies change nothing; another head in one layer changes its prediction and the anchors after it."""
    shared = decode(LookForwardTwice())
    decoder = shared[0]
    maps = [torch.rand(1, DIM, 8, 8), torch.rand(1, DIM, 4, 4)]
    inputs = inputs_of(maps, shared[1])
    expected = decoder(inputs)
    decoder.class_head = PerLayer(decoder.class_head, LAYERS)
    decoder.box_head = PerLayer(decoder.box_head, LAYERS)
    logits, boxes = decoder(inputs)
    assert torch.allclose(logits, expected[0], atol=1e-6)
    assert torch.allclose(boxes, expected[1], atol=1e-6)
    torch.nn.init.normal_(decoder.box_head[1].layers[-1].weight)
    torch.nn.init.normal_(decoder.class_head[2].weight)
    other_logits, other_boxes = decoder(inputs)
    assert torch.equal(other_boxes[0], boxes[0])
    assert not torch.allclose(other_boxes[1], boxes[1], atol=1e-3)
    assert torch.equal(other_logits[:2], logits[:2])
    assert not torch.allclose(other_logits[2], logits[2], atol=1e-3)
