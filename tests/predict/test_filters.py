# SPDX-License-Identifier: Apache-2.0
"""The score threshold and non-maximum suppression on detections written by hand."""

import numpy as np
import pytest
import torch

from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.errors import UserError
from dino_d2.predict.filters import Filters


def test_only_weaker_boxes_of_the_same_class_are_suppressed():
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 9, 10], [0, 0, 4, 10]]))
    found.scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    found.pred_classes = torch.tensor([0, 1, 0, 0])
    assert Filters()(found) is found
    assert torch.allclose(Filters(nms_iou=0.5)(found).scores, torch.tensor([0.9, 0.8, 0.6]))
    assert torch.allclose(Filters(score_threshold=0.65, nms_iou=0.5)(found).scores, torch.tensor([0.9, 0.8]))
    assert len(Filters(score_threshold=float(found.scores[2]))(found)) == 3  # a score equal to the threshold is kept
    assert len(Filters(score_threshold=1.0, nms_iou=0.5)(found)) == 0


@pytest.mark.parametrize("value", ["0.5", [0.5], True, -1, 2, float("nan")])
@pytest.mark.parametrize("name", ["score_threshold", "nms_iou"])
def test_what_is_no_share_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name} must be a number between 0 and 1"):
        Filters(**{name: value})
    Filters(**{name: np.float32(0.5)})


def test_each_class_may_have_its_own_threshold():
    found = Instances((100, 100))
    found.pred_boxes = Boxes(torch.zeros(4, 4))
    found.scores = torch.tensor([0.9, 0.6, 0.6, 0.3])
    found.pred_classes = torch.tensor([0, 0, 1, 1])
    kept = Filters(score_threshold=(0.7, 0.2))(found)
    assert kept.scores.tolist() == found.scores[[0, 2, 3]].tolist()
    assert len(Filters(score_threshold=(0.7, 0.2))(found[:0])) == 0
    with pytest.raises(UserError, match="score_threshold must be a number between 0 and 1, not 7"):
        Filters(score_threshold=(0.5, 7))
