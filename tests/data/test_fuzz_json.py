# SPDX-License-Identifier: Apache-2.0
"""Mutated jsons: each is used or refused in words, from the file to the figures of the evaluation."""

import contextlib
import io
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from dino_d2.data.check import DatasetError, check, load, table
from dino_d2.data.coco_format import coco_format
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from dino_d2.detectron2.evaluation import COCOEvaluator
from dino_d2.detectron2.structures import Boxes, BoxMode, Instances
from tests.data import fuzz


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


def use(json: Path, images: Path) -> None:
    """Everything that a run does with a json: the check, the catalogs, the loader, the mapper and the evaluation.

    Detections equal to the ground truth must have an AP of 100 where there is an object that counts.
    """
    findings = check(load(json, images), images, json=json)
    shown = table(findings)
    name = coco_format(json, images, name="coco_fuzz")
    try:
        if any(finding.is_error for finding in findings):
            raise DatasetError(shown)
        records = get_detection_dataset_dicts(name, filter_empty=False)
        for record in records:
            DetrDatasetMapper([])(record)
        objects = sum(not a["iscrowd"] for record in records for a in record["annotations"])
        assert_perfect(name, records, objects)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def assert_perfect(name: str, records: list[dict], objects: int) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOEvaluator(name, distributed=False)
        evaluator.reset()
        for record in records:
            boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
            instances = Instances((record["height"], record["width"]))
            instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4))
            instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]], dtype=torch.int64)
            instances.scores = torch.ones(len(boxes))
            evaluator.process([{"image_id": record["image_id"]}], [{"instances": instances}])
        ap = evaluator.evaluate()["bbox"]["AP"]
    assert np.isclose(ap, 100) if objects else np.isnan(ap), (ap, objects)


def fuzz_jsons(count: int, seed: int, folder: Path):
    images = folder / "images"
    fuzz.write_images(images)

    def attempt(rng: random.Random) -> None:
        json = folder / f"{rng.random()}.json"
        json.write_bytes(fuzz.mutated_coco(rng))
        use(json, images)
        json.unlink()

    return fuzz.run(count, seed, attempt)


def test_every_mutated_json_is_used_or_refused(tmp_path):
    counts = fuzz_jsons(2000, 0, tmp_path)
    print(counts)
    assert counts["accepted"] > 400
    assert counts["refused"] > 400
