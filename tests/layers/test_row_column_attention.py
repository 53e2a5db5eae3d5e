# SPDX-License-Identifier: Apache-2.0
"""Row-column attention against its definition, in which all pixels have weights."""

import pytest
import torch

from dino_d2.layers.row_column_attention import RowColumnAttention


@pytest.mark.parametrize("shape", [(3, 7), (7, 3)])
def test_row_column_attention_is_the_product_of_its_two_weights(shape):
    torch.manual_seed(0)
    height, width = shape
    attention = RowColumnAttention(16, 2)
    torch.nn.init.normal_(attention.in_proj_bias)
    memory, position = torch.randn(2, height * width, 16), torch.randn(2, 1, 1, 32).expand(2, height, width, 32)
    queries = torch.randn(2, 2, 5, 16)
    out = attention(*queries, memory, position.flatten(1, 2), shape, None)
    weights, biases = attention.in_proj_weight.chunk(5), attention.in_proj_bias.chunk(5)
    pixels = memory.unflatten(1, shape)
    rows = (pixels + position[..., :16]) @ weights[2].T + biases[2]  # every pixel projected, then the mean
    columns = (pixels + position[..., 16:]) @ weights[3].T + biases[3]
    values = pixels @ weights[4].T + biases[4]
    expected = []
    for head in (slice(0, 8), slice(8, 16)):
        query_row = (queries[0] @ weights[0].T + biases[0])[..., head]
        query_column = (queries[1] @ weights[1].T + biases[1])[..., head]
        along_row = (query_row @ rows[..., head].mean(1).mT / 8**0.5).softmax(-1)
        along_column = (query_column @ columns[..., head].mean(2).mT / 8**0.5).softmax(-1)
        expected.append(torch.einsum("bqh,bqw,bhwd->bqd", along_column, along_row, values[..., head]))
    assert torch.allclose(out, attention.out_proj(torch.cat(expected, -1)), atol=1e-5)
