# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
import torchvision

from dino_d2.layers import cxcywh_to_xyxy, generalized_iou, inverse_sigmoid, xyxy_to_cxcywh


def test_conversions_by_hand_and_back():
    box = torch.tensor([0.5, 0.4, 0.2, 0.6])
    assert cxcywh_to_xyxy(box).tolist() == pytest.approx([0.4, 0.1, 0.6, 0.7])
    assert torch.allclose(xyxy_to_cxcywh(cxcywh_to_xyxy(box)), box)


def test_generalized_iou_by_hand():
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    # the same box; half of it; far away: intersection 0, union 5, hull 12 -> -(12 - 5) / 12
    assert generalized_iou(a, a).item() == pytest.approx(1.0)
    assert generalized_iou(a, torch.tensor([0.0, 0.0, 1.0, 2.0])).item() == pytest.approx(0.5)
    assert generalized_iou(a, torch.tensor([5.0, 0.0, 6.0, 1.0])).item() == pytest.approx(-7 / 12)


def test_generalized_iou_of_all_pairs_agrees_with_torchvision():
    torch.manual_seed(0)
    a, b = cxcywh_to_xyxy(torch.rand(6, 4) + 0.1), cxcywh_to_xyxy(torch.rand(9, 4) + 0.1)
    expected = torchvision.ops.generalized_box_iou(a, b)
    assert torch.allclose(generalized_iou(a[:, None], b[None], eps=0.0), expected, atol=1e-6)


def test_eps_stands_in_both_denominators():
    tiny = cxcywh_to_xyxy(torch.tensor([0.5, 0.5, 1e-3, 1e-3]))  # area 1e-6, as large as eps
    assert generalized_iou(tiny, tiny).item() == pytest.approx(0.5, rel=1e-3)
    apart = cxcywh_to_xyxy(torch.tensor([0.501, 0.5, 1e-3, 1e-3]))  # touching: no overlap, the hull is the union
    further = cxcywh_to_xyxy(torch.tensor([0.502, 0.5, 1e-3, 1e-3]))  # hull 3e-6, union 2e-6 -> -1 / (3 + 1)
    assert generalized_iou(tiny, apart).item() == pytest.approx(0.0, abs=1e-3)
    assert generalized_iou(tiny, further).item() == pytest.approx(-0.25, rel=1e-3)


def test_inverse_sigmoid_undoes_the_sigmoid_and_stays_finite():
    x = torch.linspace(-6, 6, 50)
    assert torch.allclose(inverse_sigmoid(x.sigmoid()), x, atol=1e-4)
    ends = inverse_sigmoid(torch.tensor([0.0, 1.0]))
    assert ends.tolist() == pytest.approx([-6.9078, 6.9078], abs=1e-3)
