# SPDX-License-Identifier: Apache-2.0
"""The picture of predictions beside ground truth."""

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.shapes import shapes
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.structures import Boxes, BoxMode, Instances
from dino_d2.visualize import LabelledBox, draw_boxes, draw_predictions, picture_of_predictions


def _instances(size, boxes, scores, classes) -> Instances:
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return instances


def _record(folder, size=(64, 48), boxes=((8, 8, 24, 20),), **annotation) -> dict:
    path = folder / f"{size[0]}x{size[1]}.png"
    Image.new("RGB", size, (90, 90, 90)).save(path)
    annotations = [{"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, **annotation} for b in boxes]
    return {
        "file_name": str(path),
        "image_id": 5,
        "width": size[0],
        "height": size[1],
        "annotations": annotations,
    }


@pytest.mark.parametrize("size", [(12, 9), (128, 128), (1600, 400), (30, 2000)])
def test_any_image_size(tmp_path, size):
    record = _record(tmp_path, size, boxes=[(1, 1, size[0] / 2, size[1] / 2)])
    found = _instances(size[::-1], [[1, 1, size[0] / 2, size[1] / 2]], [0.9], [1])
    draw_predictions([record], [found], ["cat", "dog"], tmp_path / "new" / "panel.png")
    panel = Image.open(tmp_path / "new" / "panel.png")
    assert panel.format == "PNG"
    assert 900 < panel.width < 1100
    assert panel.height < 600


def test_the_box_is_drawn_in_its_place():
    drawn = np.asarray(draw_boxes(Image.new("RGB", (48, 48)), [LabelledBox((12, 12, 36, 36), 0, "cat")]))
    assert drawn.shape == (480, 480, 3)
    coloured = drawn.max(axis=2) > 200
    inside = coloured[140:340, 130:350]  # below the label, between the lines
    assert not inside.any()
    for line in (coloured[118:123, 150:330], coloured[358:363, 150:330], coloured[150:330, 118:123].T):
        assert line.any(axis=0).all()


def test_crowds_are_dashed():
    whole, dashed = (
        (np.asarray(draw_boxes(Image.new("RGB", (48, 48)), [LabelledBox((12, 12, 36, 36), 0, "", d)])) > 200).sum()
        for d in (False, True)
    )
    assert 0.3 < dashed / whole < 0.7


def test_labels_do_not_cover_each_other_or_leave_the_image():
    boxes = [LabelledBox((20, 20, 40, 40), k, f"class {k}") for k in range(3)]
    drawn = np.asarray(draw_boxes(Image.new("RGB", (48, 48)), boxes))
    blank = np.asarray(draw_boxes(Image.new("RGB", (48, 48)), [LabelledBox(b.box, 2, "") for b in boxes]))
    assert (drawn != blank).any(axis=2).sum() > 3 * 50 * 14  # three labels of about 55 x 18 pixels
    edge = draw_boxes(Image.new("RGB", (48, 48)), [LabelledBox((44, 0, 48, 4), 0, "a rather long name")])
    assert edge.size == (480, 480)


def test_only_confident_predictions_are_drawn(tmp_path):
    record = _record(tmp_path, boxes=())
    panels = []
    for scores in ([0.29, 0.1], [0.31, 0.1], []):
        boxes = [[10, 10, 30, 30], [20, 20, 40, 40]][: len(scores)]
        found = _instances((48, 64), boxes, scores, [0, 1][: len(scores)])
        draw_predictions([record], [found], ["cat", "dog"], tmp_path / "panel.png", score_threshold=0.3)
        panels.append(np.asarray(Image.open(tmp_path / "panel.png")))
    assert np.array_equal(panels[0], panels[2])
    assert not np.array_equal(panels[0], panels[1])


def test_wrong_count(tmp_path):
    with pytest.raises(ValueError, match="one prediction for each image"):
        draw_predictions([_record(tmp_path)], [], ["cat", "dog"], tmp_path / "panel.png")


class _Oracle(torch.nn.Module):
    """Answers with its input's ground truth; complains when it is in training mode."""

    def forward(self, inputs):
        assert not self.training
        (one,) = inputs
        truth = one["instances"]
        found = Instances((one["height"], one["width"]))
        found.pred_boxes, found.pred_classes = truth.gt_boxes, truth.gt_classes
        found.scores = torch.ones(len(truth))
        return [{"instances": found}]


def test_picture_of_a_models_predictions(tmp_path):
    dataset = shapes("val", tmp_path / "s", train=1, val=6)
    model = _Oracle().train()
    picture_of_predictions(model, dataset, DetrDatasetMapper([]), tmp_path / "p.png", count=4)
    assert model.training
    assert len(DatasetCatalog.get(dataset)) == 6
    assert len(MetadataCatalog.get(dataset).thing_classes) == 5
    panel = Image.open(tmp_path / "p.png")
    assert panel.width > 4 * 480  # two pairs beside each other
    assert panel.height > 2 * 480
