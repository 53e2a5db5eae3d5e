# SPDX-License-Identifier: Apache-2.0
"""Cached geometry: computed once per shape without padding, and every time with padding."""

import weakref

import pytest
import torch
from torch._subclasses import FakeTensor, FakeTensorMode

from dino_d2.modeling import ProposalHead
from dino_d2.modeling.levels import make_levels, token_references
from dino_d2.speed import optimise_for_training
from dino_d2.speed.geometry import CachedDeformableEncoder, CachedProposalHead, cached_levels, cached_shape_tensors

SHAPES = ((8, 12), (4, 6))
CACHED_AND_PLAIN = (
    (CachedDeformableEncoder.reference_points, token_references),
    (CachedProposalHead.token_anchors, ProposalHead.token_anchors),
)
OF_GEOMETRY = tuple(cached for cached, _ in CACHED_AND_PLAIN)


def maps(batch=2):
    return [torch.rand(batch, 16, h, w) for h, w in SHAPES]


def tensors(result):
    return [result] if isinstance(result, torch.Tensor) else list(result)


def padding(width):
    mask = torch.zeros(2, 64, 96, dtype=torch.bool)
    mask[1, :, width:] = True
    return mask


def test_without_padding_it_is_the_same_tensors_again():
    first, second, other = make_levels(maps(), None), make_levels(maps(), None), make_levels(maps(3), None)
    for function in OF_GEOMETRY:
        for a, b, c in zip(*(tensors(function(x)) for x in (first, second, other)), strict=True):
            assert a is b
            assert c.shape == (3, *a.shape[1:])


def test_kept_tensors_are_what_a_mask_without_padding_gives():
    levels = make_levels(maps(), None)
    masked = make_levels(maps(), torch.zeros(2, 64, 96, dtype=torch.bool))
    assert torch.equal(levels.valid_ratios, masked.valid_ratios)
    for function in OF_GEOMETRY:
        for a, b in zip(tensors(function(levels)), tensors(function(masked)), strict=True):
            assert torch.equal(a, b)


def test_padded_batches_of_one_shape_have_their_own():
    for function, plain in CACHED_AND_PLAIN:
        kept = tensors(function(make_levels(maps(), None)))
        for width in (64, 33):
            levels = make_levels(maps(), padding(width))
            found, expected = tensors(function(levels)), tensors(plain(levels))
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
            assert not any(a is b for a, b in zip(found, kept, strict=True))
            assert not torch.equal(found[0], kept[0])


def test_positions_follow_the_encoding_and_the_padding(make_detector):
    detector = make_detector().eval()
    optimise_for_training(detector)
    levels = make_levels(maps(), None)
    detector.level_embedding = None
    for detector.position_encoding.temperature in (20.0, 10000.0):
        expected = [detector.position_encoding(mask).flatten(1, 2) for mask in levels.masks]
        assert torch.equal(detector.token_positions(levels), torch.cat(expected, dim=1))
    padded = make_levels(maps(), padding(48))
    assert not torch.equal(*detector.token_positions(padded))


def test_tensors_of_a_planning_mode_are_not_kept():
    shapes = ((3, 4), (2, 2))
    cached_shape_tensors.forget()
    with FakeTensorMode():
        assert [type(t) for t in cached_shape_tensors(shapes, torch.device("cpu"))] == [FakeTensor] * 2
    assert [type(t) for t in cached_shape_tensors(shapes, torch.device("cpu"))] == [torch.Tensor] * 2


def test_a_training_step_uses_what_an_evaluation_kept(make_detector):
    detector = make_detector()
    optimise_for_training(detector)
    images = torch.rand(1, 3, 96, 160)  # a size of this test alone
    with torch.inference_mode():
        detector.eval()(images)
    detector.train()(images).logits.sum().backward()
    assert detector.level_embedding.weight.grad is not None


@pytest.mark.parametrize("capturing", [False, True])
def test_what_a_cuda_graph_has_captured_is_never_freed(monkeypatch, capturing):
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr("dino_d2.speed.geometry._of_cuda_graphs", [])
    kept = weakref.ref(cached_levels(SHAPES, 5, torch.device("cpu")).valid_ratios)
    cached_levels.forget()
    assert (kept() is not None) == capturing
