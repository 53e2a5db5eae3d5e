# SPDX-License-Identifier: Apache-2.0
"""A number of images that two ranks cannot share evenly: each counts once, as on one rank."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from dino_d2.data.coco_format import coco_format
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.shapes import Recipe, generate
from dino_d2.detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from dino_d2.detectron2.evaluation import COCOEvaluator, inference_on_dataset
from dino_d2.detectron2.structures import Instances
from dino_d2.detectron2.utils import comm
from dino_d2.evaluation import DuplicateEvaluator
from tests.two_ranks import run_on_two_ranks


def detect(inputs: list[dict]) -> list[dict]:
    """The ground truth; in every third image the classes are wrong, in every second each box is given twice."""
    outputs = []
    for image in inputs:
        truth, number = image["instances"], image["image_id"]
        found = Instances(truth.image_size)
        twice = torch.arange(len(truth)).repeat(2 if number % 2 else 1)
        found.pred_boxes = truth.gt_boxes[twice]
        found.pred_classes = truth.gt_classes[twice] if number % 3 else (truth.gt_classes[twice] + 1) % 5
        found.scores = torch.linspace(0.9, 0.5, len(twice)) - number / 1000
        outputs.append({"instances": found})
    return outputs


def evaluate(root: Path, output: Path) -> None:
    name = coco_format(root / "annotations" / "shapes_val.json", root / "val")
    mapper = DetrDatasetMapper(augmentations=[], image_format="RGB")
    loader = build_detection_test_loader(get_detection_dataset_dicts(name, filter_empty=False), mapper=mapper)
    evaluators = [COCOEvaluator(name, output_dir=str(output), use_fast_impl=False), DuplicateEvaluator()]
    results = inference_on_dataset(detect, loader, evaluators)
    if comm.is_main_process():
        (output / "results.json").write_text(json.dumps(results))


def test_21_images_on_two_ranks(tmp_path):
    root = tmp_path / "shapes"
    generate(root, Recipe(train=1, val=21, size=64))
    evaluate(root, tmp_path / "one")
    run_on_two_ranks(evaluate, root, tmp_path / "two")
    one, two = (json.loads((tmp_path / ranks / "results.json").read_text()) for ranks in ("one", "two"))
    assert two["bbox"]["AP"] > 10
    assert {task: pytest.approx(values, nan_ok=True) for task, values in one.items()} == two
    counts = []
    for ranks in ("one", "two"):
        detections = json.loads((tmp_path / ranks / "coco_instances_results.json").read_text())
        counts.append(Counter(detection["image_id"] for detection in detections))
    assert len(counts[0]) == 21
    assert counts[0] == counts[1]
