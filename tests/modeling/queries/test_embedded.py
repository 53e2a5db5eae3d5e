# SPDX-License-Identifier: Apache-2.0
"""DETR's queries: the same learned embeddings for every image."""

import torch

from dino_d2.modeling import DenoisedEmbeddedQueries, EmbeddedQueries


def test_positions_are_the_embeddings_and_content_is_zero():
    queries = EmbeddedQueries(num_queries=5, embed_dim=8)
    content, position, *_ = queries(torch.rand(3, 7, 8), None)
    assert content.shape == (3, 5, 8)
    assert content.eq(0).all()
    assert torch.equal(position, queries.position.weight[None].repeat(3, 1, 1))


def test_noised_boxes_are_embedded_by_one_linear_layer():
    queries, boxes = DenoisedEmbeddedQueries(num_queries=5, embed_dim=8), torch.rand(2, 4, 4)
    weight, bias = queries.box_embedding.weight, queries.box_embedding.bias
    torch.testing.assert_close(queries.denoising_anchors(boxes), boxes @ weight.T + bias)
