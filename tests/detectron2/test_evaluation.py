# SPDX-License-Identifier: Apache-2.0
"""inference_on_dataset and COCOEvaluator, under either engine."""

import json
import logging
import math

import pytest
import torch
from torch import nn

from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.data.datasets import register_coco_instances
from dino_d2.detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    inference_context,
    inference_on_dataset,
    print_csv_format,
)
from dino_d2.detectron2.structures import Boxes, Instances

TRUTH = {1: [([10, 10, 20, 20], 3), ([40, 40, 50, 50], 7)], 2: [([0, 0, 30, 30], 3)], 3: []}


@pytest.fixture
def dataset(tmp_path, request):
    annotations = [
        {"id": i, "image_id": image_id, "bbox": box, "category_id": category, "iscrowd": 0, "area": box[2] * box[3]}
        for i, (image_id, box, category) in enumerate(
            ((image_id, box, category) for image_id, objects in TRUTH.items() for box, category in objects), 1
        )
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 100} for i in TRUTH],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}],
    }
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    name = f"door_{request.node.name}"
    register_coco_instances(name, {}, str(path), str(tmp_path))
    DatasetCatalog.get(name)  # fills in the classes
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


class Oracle(nn.Module):
    """Gives the truth, the class of some images changed."""

    def __init__(self, confuse=()):
        super().__init__()
        self.confuse = confuse

    def forward(self, inputs):
        assert not self.training
        assert not torch.is_grad_enabled()
        outputs = []
        for image in inputs:
            objects = TRUTH[image["image_id"]]
            instances = Instances((100, 100))
            instances.pred_boxes = Boxes([[x, y, x + w, y + h] for (x, y, w, h), _ in objects])
            flip = image["image_id"] in self.confuse
            instances.pred_classes = torch.tensor([(c == 7) ^ flip for _, c in objects], dtype=torch.int64)
            instances.scores = torch.linspace(0.9, 0.5, len(objects))
            outputs.append({"instances": instances})
        return outputs


LOADER = [[{"image_id": i}] for i in TRUTH]


def test_perfect_and_worse(dataset, tmp_path):
    model = Oracle().train()
    evaluator = COCOEvaluator(dataset, tasks=("bbox",), output_dir=str(tmp_path / "out"), use_fast_impl=False)
    results = inference_on_dataset(model, LOADER, evaluator)["bbox"]
    assert model.training
    assert list(results) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "AP-dog", "AP-cat"]
    assert [results[name] for name in ("AP", "AP50", "AP-dog", "AP-cat")] == pytest.approx([100] * 4)
    assert math.isnan(results["APl"])  # there is no large object
    saved = json.loads((tmp_path / "out/coco_instances_results.json").read_text())
    assert [d["category_id"] for d in saved] == [3, 7, 3]
    assert saved[1]["bbox"] == [40, 40, 50, 50]
    assert (tmp_path / "out/instances_predictions.pth").exists()

    evaluator = COCOEvaluator(dataset, use_fast_impl=False)
    worse = inference_on_dataset(Oracle(confuse={2}), LOADER, [evaluator])["bbox"]
    assert worse["AP-dog"] == pytest.approx(100 * 51 / 101)  # one dog of two: recall 0 to 0.5 of COCO's 101 points
    assert worse["AP-cat"] == pytest.approx(50)  # the wrong cat has the higher score


@torch.no_grad()
def test_only_some_images(dataset):
    evaluator = COCOEvaluator(dataset, use_fast_impl=False)
    evaluator.reset()
    model = Oracle(confuse={2}).eval()
    for inputs in LOADER:
        evaluator.process(inputs, model(inputs))
    assert evaluator.evaluate(img_ids=[1, 3])["bbox"]["AP"] == pytest.approx(100)


def test_nothing_detected(dataset):
    evaluator = COCOEvaluator(dataset, use_fast_impl=False)
    evaluator.reset()
    assert evaluator.evaluate() == {}
    empty = {"instances": Instances((9, 9), pred_boxes=Boxes([]), scores=torch.zeros(0), pred_classes=torch.zeros(0))}
    evaluator.process([{"image_id": 1}], [empty])
    results = evaluator.evaluate()["bbox"]
    assert len(results) == 6
    assert all(math.isnan(value) for value in results.values())


def test_class_outside_the_dataset(dataset):
    evaluator = COCOEvaluator(dataset, use_fast_impl=False)
    evaluator.reset()
    one = Instances((9, 9), pred_boxes=Boxes([[0, 0, 1, 1]]), scores=torch.ones(1), pred_classes=torch.tensor([2]))
    evaluator.process([{"image_id": 1}], [{"instances": one}])
    with pytest.raises(AssertionError, match="2"):
        evaluator.evaluate()


class Count(DatasetEvaluator):
    def __init__(self, name):
        self.name = name

    def reset(self):
        self.images = 0

    def process(self, inputs, outputs):
        self.images += len(inputs)

    def evaluate(self):
        return {self.name: {"images": self.images}}


def test_several_evaluators():
    results = inference_on_dataset(lambda x: x, LOADER, DatasetEvaluators([Count("a"), Count("b")]))
    assert results == {"a": {"images": 3}, "b": {"images": 3}}
    with pytest.raises(AssertionError, match="a"):
        inference_on_dataset(lambda x: x, LOADER, [Count("a"), Count("a")])
    assert inference_on_dataset(lambda x: x, LOADER, None) == {}


def test_inference_context():
    model = nn.Dropout()
    with inference_context(model):
        assert not model.training
    assert model.training


def test_csv(caplog):
    logging.getLogger("detectron2").propagate = True
    with caplog.at_level("INFO"):
        print_csv_format({"bbox": {"AP": 1.23456, "AP50": 2.0, "AP-cat": 3.0}})
    assert caplog.messages == ["copypaste: Task: bbox", "copypaste: AP,AP50", "copypaste: 1.2346,2.0000"]
