# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch

from dino_d2.layers import SinePositionEncoding, anchor_embedding, sine_embedding


def test_features_alternate_sine_and_cosine_from_slow_wave_temperature():
    features = sine_embedding(torch.tensor([0.25]), dim=4, temperature=100.0)
    angle = 2 * math.pi * 0.25
    expected = [math.sin(angle), math.cos(angle), math.sin(angle / 10), math.cos(angle / 10)]
    assert features.tolist() == pytest.approx(expected, abs=1e-6)


def test_anchor_features_come_in_the_order_y_x_w_h():
    anchor = torch.tensor([0.1, 0.2, 0.3, 0.4])
    features = anchor_embedding(anchor, dim=8)
    for place, value in enumerate([0.2, 0.1, 0.3, 0.4]):
        expected = sine_embedding(torch.tensor([value]), 8, 10000.0)
        assert torch.equal(features[8 * place : 8 * place + 8], expected)


def test_padding_does_not_move_the_positions_of_the_image():
    encoding = SinePositionEncoding(16)
    alone = encoding(torch.zeros(1, 4, 6, dtype=torch.bool))
    mask = torch.ones(1, 7, 9, dtype=torch.bool)
    mask[:, :4, :6] = False
    assert torch.allclose(encoding(mask)[:, :4, :6], alone, atol=1e-6)


def test_y_comes_before_x():
    encoding = SinePositionEncoding(16)(torch.zeros(1, 4, 6, dtype=torch.bool))[0]
    assert torch.equal(encoding[2, 0, :8], encoding[2, 5, :8])  # the same row
    assert torch.equal(encoding[0, 3, 8:], encoding[3, 3, 8:])  # the same column


def test_a_width_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        SinePositionEncoding(30)
