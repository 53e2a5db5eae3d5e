# SPDX-License-Identifier: Apache-2.0
"""DETR's decoder: which inputs reach a query, and what becomes of the last norm."""

import torch

from dino_d2.modeling import BoxHead, DecoderInputs, DenseDecoder, SoftmaxClassHead
from dino_d2.modeling.levels import make_levels

DIM, CLASSES, QUERIES, LAYERS = 16, 5, 6, 2
SIZES = {"num_layers": LAYERS, "embed_dim": DIM, "feedforward_dim": 32, "num_heads": 2, "dropout": 0.0}


def make(**options):
    torch.manual_seed(0)
    decoder = DenseDecoder(SoftmaxClassHead(DIM, CLASSES), BoxHead(DIM), **SIZES, **options)
    torch.nn.init.normal_(decoder.box_head.layers[-1].weight)
    return decoder


def inputs(mask=None):
    generator = torch.Generator().manual_seed(0)
    content, anchors = torch.randn(2, 2, QUERIES, DIM, generator=generator)
    memory, position = torch.randn(2, 2, 12, DIM, generator=generator)
    return DecoderInputs(content, anchors, None, None, memory, position, make_levels([torch.zeros(2, DIM, 3, 4)], mask))


def test_every_layer_predicts_by_the_same_heads_and_norm():
    decoder, given = make(), inputs()
    logits, boxes = decoder(given)
    assert logits.shape == (LAYERS, 2, QUERIES, CLASSES + 1)
    x, others = given.content, (given.anchors, given.memory, given.memory_positions, given.levels)
    for layer, layer_logits, layer_boxes in zip(decoder.layers, logits, boxes, strict=True):
        x = layer(x, *others, None)
        state = decoder.norm(x)
        torch.testing.assert_close(layer_logits, decoder.class_head(state))
        torch.testing.assert_close(layer_boxes, decoder.box_head(state).sigmoid())


def test_a_norm_can_be_left_out():
    decoder = make(norm=torch.nn.Identity())
    assert not [name for name, _ in decoder.named_parameters() if name.startswith("norm.")]


def test_queries_see_those_that_the_mask_leaves_them():
    decoder, given = make(), inputs()
    content = given.content
    mask = torch.eye(QUERIES, dtype=torch.bool).logical_not()  # each sees itself alone
    changed = content.clone()
    changed[:, 0] += 1
    first, second = (decoder(given._replace(content=x, mask=mask)).logits for x in (content, changed))
    assert not torch.equal(first[:, :, 0], second[:, :, 0])
    assert torch.equal(first[:, :, 1:], second[:, :, 1:])
    unmasked = [decoder(given._replace(content=x)).logits for x in (content, changed)]
    assert not torch.equal(unmasked[0][:, :, 1:], unmasked[1][:, :, 1:])


def test_padding_is_not_attended_to():
    mask = torch.zeros(2, 96, 128, dtype=torch.bool)
    mask[1, :, 64:] = True
    decoder, given = make(), inputs(mask)
    other = given.memory.masked_fill(given.levels.padding_mask[..., None], 100.0)
    first, second = (decoder(given._replace(memory=m)).boxes for m in (given.memory, other))
    assert torch.equal(first, second)
