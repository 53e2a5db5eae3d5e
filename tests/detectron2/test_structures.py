# SPDX-License-Identifier: Apache-2.0
"""Boxes, BoxMode and Instances, under either engine."""

import copy
import pickle

import numpy as np
import pytest
import torch

from dino_d2.detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou


def test_box_modes():
    xywh, xyxy = [1, 2.5, 3, 4], [1, 2.5, 4, 6.5]
    assert BoxMode.convert(xywh, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == xyxy
    assert BoxMode.convert(tuple(xyxy), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS) == tuple(xywh)
    array = np.array([xywh, xywh])
    assert (BoxMode.convert(array, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == [xyxy, xyxy]).all()
    assert (array == [xywh, xywh]).all(), "the input must not change"
    tensor = torch.tensor([xywh])
    assert BoxMode.convert(tensor, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS).tolist() == [xyxy]
    assert BoxMode.convert([1, 2, 3, 4], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) == [1, 2, 4, 6]
    assert BoxMode(0) == BoxMode.XYXY_ABS
    assert BoxMode(1) == BoxMode.XYWH_ABS


def test_boxes():
    boxes = Boxes(np.array([[0, 0, 10, 20], [5, 5, 5, 9], [-3, 2, 100, 50]], dtype=np.float64))
    assert boxes.tensor.dtype == torch.float32
    assert boxes.area().tolist() == [200, 0, 103 * 48]
    assert boxes.nonempty().tolist() == [True, False, True]
    assert boxes.nonempty(threshold=15).tolist() == [False, False, True]
    boxes.clip((30, 40))
    assert boxes.tensor[2].tolist() == [0, 2, 40, 30]
    boxes.scale(2, 0.5)
    assert boxes.tensor[0].tolist() == [0, 0, 20, 10]
    assert len(boxes[torch.tensor([True, False, True])]) == 2
    assert boxes[1].tensor.shape == (1, 4)
    assert boxes[-2:].tensor.shape == (2, 4)
    assert len(Boxes.cat([boxes, boxes[:1]])) == 4
    assert [b.shape for b in boxes] == [(4,)] * 3
    assert Boxes([]).tensor.shape == (0, 4)
    assert Boxes(torch.zeros(0)).tensor.shape == (0, 4)
    with pytest.raises(AssertionError):
        Boxes([[1, 2, 3]])
    with pytest.raises(AssertionError):
        Boxes([[0, 0, float("nan"), 1]]).clip((5, 5))


def test_pairwise_iou():
    a = Boxes([[0, 0, 2, 2], [0, 0, 0, 0]])
    b = Boxes([[1, 1, 3, 3], [0, 0, 2, 2], [9, 9, 9, 9]])
    expected = torch.tensor([[1 / 7, 1, 0], [0, 0, 0]])
    assert torch.allclose(pairwise_iou(a, b), expected)


def make() -> Instances:
    instances = Instances((30, 40), gt_boxes=Boxes([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]))
    instances.gt_classes = torch.tensor([4, 5, 6])
    instances.names = ["a", "b", "c"]
    return instances


def test_instances():
    instances = make()
    assert instances.image_size == (30, 40)
    assert len(instances) == 3
    assert instances.has("gt_classes")
    assert not instances.has("scores")
    assert "gt_boxes" in instances.get_fields()
    with pytest.raises(AttributeError, match="scores"):
        _ = instances.scores
    with pytest.raises(AssertionError):
        instances.scores = torch.ones(2)
    with pytest.raises(NotImplementedError):
        iter(instances)
    with pytest.raises(NotImplementedError):
        len(Instances((1, 1)))
    instances.remove("names")
    chosen = instances[instances.gt_classes > 4]
    assert chosen.gt_boxes.area().tolist() == [4, 9]
    assert chosen.image_size == (30, 40)
    assert len(instances[0]) == len(instances[-1]) == 1
    with pytest.raises(IndexError):
        instances[3]
    assert instances.to("cpu").gt_classes.tolist() == [4, 5, 6]


def test_instances_cat():
    joined = Instances.cat([make(), make()])
    assert len(joined) == 6
    assert joined.names == ["a", "b", "c"] * 2
    assert joined.gt_boxes.tensor.shape == (6, 4)
    with pytest.raises(AssertionError):
        Instances.cat([make(), Instances((1, 1))])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_instances_survive_copy_and_pickle(clone):
    cloned = clone(make())
    assert cloned.gt_classes.tolist() == [4, 5, 6]
    assert isinstance(cloned.gt_boxes, Boxes)
    assert cloned.image_size == (30, 40)
