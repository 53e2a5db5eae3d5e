# SPDX-License-Identifier: Apache-2.0
"""AP50 by class beside Detectron2's metrics, with either engine."""

import json
import logging

import pytest
import torch

from dino_d2.data.coco_format import coco_format
from dino_d2.detectron2.evaluation import COCOEvaluator
from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.evaluation import PerClassCOCOEvaluator
from tests.coco_results import truth_of


def evaluate(evaluator_type, name, found):
    evaluator = evaluator_type(name, distributed=False, use_fast_impl=False)
    evaluator.reset()
    instances = Instances((200, 200))
    instances.pred_boxes = Boxes(torch.tensor([box for _, box in found], dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor([k for k, _ in found], dtype=torch.int64)
    instances.scores = torch.linspace(0.9, 0.5, len(found))
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def dataset(folder, classes=("ant", "bee", "cat")):
    (folder / "1.png").touch()
    file = folder / "truth.json"
    objects = [(1, 3, [0, 0, 10, 10]), (1, 3, [50, 50, 20, 20])]
    objects += [(1, 4, [0, 50, 10, 10])] if len(classes) > 1 else []
    file.write_text(json.dumps(truth_of(objects, classes, images=1)))
    return coco_format(file, folder)


def test_ap50_of_each_class(tmp_path, caplog):
    name = dataset(tmp_path)
    found = [(0, [0, 0, 10, 10]), (1, [0, 50, 10, 56])]  # one ant of two, a bee with IoU 0.6
    with caplog.at_level(logging.INFO):
        results = evaluate(PerClassCOCOEvaluator, name, found)
    assert results["AP50-ant"] == pytest.approx(100 * 51 / 101)
    assert results["AP50-bee"] == pytest.approx(100)
    assert results["AP-bee"] == pytest.approx(30)
    assert results["AP50-cat"] != results["AP50-cat"]  # NaN: there are none
    assert "ant        50.5  bee       100.0  cat           -" in caplog.text
    plain = evaluate(COCOEvaluator, name, found)
    assert {key: pytest.approx(value, nan_ok=True) for key, value in plain.items()} == {
        key: value for key, value in results.items() if not key.startswith("AP50-")
    }


def test_nothing_to_add(tmp_path):
    assert "AP50-ant" not in evaluate(PerClassCOCOEvaluator, dataset(tmp_path), [])
    (tmp_path / "one").mkdir()
    one_class = evaluate(PerClassCOCOEvaluator, dataset(tmp_path / "one", ("ant",)), [(0, [0, 0, 10, 10])])
    assert list(one_class) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
