# SPDX-License-Identifier: Apache-2.0
"""Decoders with conditional attention: where their boxes start and what moves them."""

import torch

from dino_d2.layers import anchor_embedding
from dino_d2.modeling import (
    BoxHead,
    ClassHead,
    ConditionalDecoder,
    DecoderInputs,
)
from dino_d2.modeling.levels import make_levels

DIM, CLASSES, QUERIES, LAYERS = 16, 5, 6, 2
SIZES = {"num_layers": LAYERS, "embed_dim": DIM, "feedforward_dim": 32, "num_heads": 2, "dropout": 0.0}


def inputs(anchors):
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(2, QUERIES, DIM, generator=generator)
    memory, position = torch.randn(2, 2, 12, DIM, generator=generator)
    levels = make_levels([torch.zeros(2, DIM, 3, 4)], None)
    return DecoderInputs(content, anchors, None, None, memory, position, levels)


def test_boxes_are_offsets_from_the_point_that_the_embedding_predicts():
    torch.manual_seed(0)
    decoder, embeddings = (
        ConditionalDecoder(ClassHead(DIM, CLASSES), BoxHead(DIM), **SIZES),
        torch.randn(2, QUERIES, DIM),
    )
    logits, boxes = decoder(inputs(embeddings))
    assert logits.shape == (LAYERS, 2, QUERIES, CLASSES)
    points = decoder.position_head(embeddings).sigmoid()
    for layer in boxes:  # the box head starts at zero
        torch.testing.assert_close(layer[..., :2], points)
        torch.testing.assert_close(layer[..., 2:], torch.full_like(points, 0.5))


def test_the_first_layer_has_the_plain_position_and_later_ones_a_scaled_one():
    torch.manual_seed(0)
    decoder, embeddings = (
        ConditionalDecoder(ClassHead(DIM, CLASSES), BoxHead(DIM), **SIZES),
        torch.randn(2, QUERIES, DIM),
    )
    entered = []
    for layer in decoder.layers:
        layer.register_forward_pre_hook(lambda _, given: entered.append(given))
    decoder(inputs(embeddings))
    sine = anchor_embedding(decoder.position_head(embeddings).sigmoid(), DIM // 2)
    torch.testing.assert_close(entered[0][2], sine)
    torch.testing.assert_close(entered[1][2], sine * decoder.position_scale(entered[1][0]))
