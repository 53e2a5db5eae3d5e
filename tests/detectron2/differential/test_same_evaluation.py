# SPDX-License-Identifier: Apache-2.0
"""AP of both engines on a dataset that is registered by a function, and the order of callbacks."""

import json

import numpy as np
import pytest
import torch

from .engines import ENGINES, module

CLASSES = ["a", "b", "c"]


def records(box_mode) -> list[dict]:
    rng = np.random.default_rng(0)
    found = []
    for k in range(6):
        objects = [
            {
                "bbox": [*corner, *(corner + rng.uniform(3, 60, 2))],
                "bbox_mode": box_mode,
                "category_id": int(rng.integers(2)),
                "iscrowd": int(n == 3),
            }
            for n, corner in enumerate(rng.uniform(0, 50, (k, 2)))
        ]
        found.append({"file_name": f"{k}.jpg", "image_id": k, "height": 100, "width": 120, "annotations": objects})
    return found


def evaluate(engine, folder, img_ids=None, **options):
    data, structures, evaluation = (module(engine, name) for name in ("data", "structures", "evaluation"))
    rng = np.random.default_rng(1)
    dicts = records(structures.BoxMode.XYXY_ABS)
    data.DatasetCatalog.register("of_a_function", lambda: dicts)
    data.MetadataCatalog.get("of_a_function").thing_classes = CLASSES
    try:
        evaluator = evaluation.COCOEvaluator(
            "of_a_function", output_dir=str(folder), use_fast_impl=False, allow_cached_coco=False, **options
        )
        evaluator.reset()
        for record in dicts:
            objects = record["annotations"]
            noise = [np.array(a["bbox"]) + rng.normal(0, 2, 4) for a in objects for _ in range(3)]
            instances = structures.Instances((100, 120), pred_boxes=structures.Boxes(np.array(noise).reshape(-1, 4)))
            instances.scores = torch.from_numpy(rng.uniform(size=len(noise)))
            instances.pred_classes = torch.tensor([a["category_id"] for a in objects for _ in range(3)]).long()
            evaluator.process([record], [{"instances": instances}])
        evaluator.process([{"image_id": 99}], [{"sem_seg": None}])  # not for this evaluator
        results = evaluator.evaluate(img_ids)
    finally:
        data.DatasetCatalog.remove("of_a_function")
        data.MetadataCatalog.remove("of_a_function")
    return results, json.loads((folder / "coco_instances_results.json").read_text())


@pytest.mark.parametrize("options", [{}, {"max_dets_per_image": 2}, {"max_dets_per_image": 300}, {"img_ids": [1, 4]}])
def test_same_ap(options, tmp_path):
    (real, real_file), (embedded, embedded_file) = (evaluate(engine, tmp_path, **options) for engine in ENGINES)
    assert real_file == embedded_file
    assert real.keys() == embedded.keys() == {"bbox"}
    assert real["bbox"].keys() == embedded["bbox"].keys()
    for name, value in real["bbox"].items():
        assert embedded["bbox"][name] == pytest.approx(value, abs=0, rel=0, nan_ok=True), name
    assert real["bbox"]["AP"] > 5


@pytest.mark.parametrize("engine", ENGINES)
def test_no_folder_to_convert_to(engine):
    data = module(engine, "data")
    data.MetadataCatalog.get("of_nobody").thing_classes = CLASSES
    with pytest.raises(ValueError, match="output_dir"):
        module(engine, "evaluation").COCOEvaluator("of_nobody")
    data.MetadataCatalog.remove("of_nobody")


def test_same_order_of_callbacks():
    orders = []
    for engine in ENGINES:
        order = []
        names = ("on_start", "before_inference", "after_inference", "on_end")
        callbacks = {name: lambda order=order, name=name: order.append(name) for name in names}

        class Evaluator(module(engine, "evaluation").DatasetEvaluator):
            def process(self, inputs, outputs, order=order):
                order.append("process")

            def evaluate(self, order=order):
                order.append("evaluate")

        def model(inputs, order=order):
            order.append("model")

        inference_on_dataset = module(engine, "evaluation").inference_on_dataset
        assert inference_on_dataset(model, [1, 2, 3], Evaluator(), callbacks) == {}
        inference_on_dataset(model, [1], Evaluator(), {"on_end": callbacks["on_end"]})
        orders.append(order)
    assert orders[0] == orders[1]
    assert orders[0].count("before_inference") == 3
