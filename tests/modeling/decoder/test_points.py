# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR's decoder: boxes are offsets from fixed points."""

import torch
from torch import nn

from dino_d2.modeling import BoxHead, ClassHead, DecoderInputs
from dino_d2.modeling.decoder.points import PointDecoder, RowColumnPointDecoder
from dino_d2.modeling.levels import make_levels

DIM, CLASSES, QUERIES, LAYERS = 16, 5, 6, 2
SHAPE = (3, 4)
SIZES = {"num_layers": LAYERS, "embed_dim": DIM, "feedforward_dim": 32, "num_heads": 2, "dropout": 0.0}


def inputs(memory, query_width, memory_width, mask=None):
    """Random points, and positions of the widths that the attention asks for."""
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(2, QUERIES, 2, generator=generator) * 0.8 + 0.1
    content = torch.randn(2, QUERIES, DIM, generator=generator)
    positions = torch.randn(2, QUERIES, query_width, generator=generator)
    memory_positions = torch.randn(2, 12, memory_width, generator=generator)
    levels = make_levels([torch.zeros(2, DIM, *SHAPE)], mask)
    return DecoderInputs(content, points, positions, None, memory, memory_positions, levels)


def test_boxes_start_around_the_points_in_every_layer():
    decoder = PointDecoder(ClassHead(DIM, CLASSES), BoxHead(DIM), norm=nn.Identity(), **SIZES)
    given = inputs(torch.randn(2, 12, DIM), DIM, DIM)
    logits, boxes = decoder(given)
    assert logits.shape == (LAYERS, 2, QUERIES, CLASSES)
    for layer in boxes:  # the box head starts at zero, so the size is that of a zero logit
        torch.testing.assert_close(layer[..., :2], given.anchors)
        torch.testing.assert_close(layer[..., 2:], torch.full_like(given.anchors, 0.5))


def test_row_column_attention_takes_the_position_in_x_along_rows_and_that_in_y_along_columns():
    """The first D channels of a query's position serve self-attention, the next the rows, the last the columns."""
    torch.manual_seed(0)
    decoder = RowColumnPointDecoder(ClassHead(DIM, CLASSES), BoxHead(DIM), norm=nn.Identity(), **SIZES)
    given = inputs(torch.randn(2, 12, DIM), 3 * DIM, 2 * DIM)
    received = []
    decoder.layers[0].cross_attention.register_forward_pre_hook(lambda _, arguments: received.append(arguments))
    decoder(given)
    layer, (position, row, column) = decoder.layers[0], given.query_positions.chunk(3, dim=-1)
    x = layer.self_norm(given.content + layer.self_attention(given.content, position, None))
    torch.testing.assert_close(received[0][0], x + row)
    torch.testing.assert_close(received[0][1], x + column)
    assert received[0][4] == SHAPE


def test_padding_is_not_attended_to():
    torch.manual_seed(0)
    decoder = PointDecoder(ClassHead(DIM, CLASSES), BoxHead(DIM), norm=nn.Identity(), **SIZES)
    padding = torch.zeros(2, 96, 128, dtype=torch.bool)
    padding[1, :, 64:] = True
    memory = torch.randn(2, 12, DIM)
    given = inputs(memory, DIM, DIM, padding)
    other = memory.masked_fill(given.levels.padding_mask[..., None], 100.0)
    assert torch.equal(decoder(given).logits, decoder(given._replace(memory=other)).logits)
