# SPDX-License-Identifier: Apache-2.0
"""COCO-format datasets by path: registration, and every way in which a json can be wrong."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import categories, coco_format, num_classes, source_of
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.evaluation import COCOEvaluator
from dino_d2.detectron2.structures import Boxes, BoxMode, Instances
from tests.paths import COCO_TINY

needs_coco_tiny = pytest.mark.skipif(not COCO_TINY.is_dir(), reason="real photographs are not beside the checkout")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def coco() -> dict:
    """Three images, the last without an object; category ids with holes, out of order."""
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in (3, 5, 8)],
        "categories": [{"id": 17, "name": "dog"}, {"id": 4, "name": "cat"}],
        "annotations": [
            {"id": 11, "image_id": 3, "category_id": 17, "bbox": [1, 2, 10, 9], "area": 90, "iscrowd": 0},
            {"id": 12, "image_id": 3, "category_id": 4, "bbox": [20, 2, 12, 20], "area": 240, "iscrowd": 0},
            {"id": 13, "image_id": 5, "category_id": 4, "bbox": [5, 5, 30, 20], "area": 600, "iscrowd": 1},
        ],
    }


def _write(folder: Path, coco: object) -> dict[str, Path]:
    """Writes the json and an image file for each entry; returns the two paths."""
    (folder / "images").mkdir(exist_ok=True)
    for image in coco["images"] if isinstance(coco, dict) and isinstance(coco.get("images"), list) else []:
        if isinstance(image, dict) and "file_name" in image:
            Image.new("RGB", (40, 30)).save(folder / "images" / image["file_name"])
    (folder / "boxes.json").write_text(json.dumps(coco))
    return {"json": folder / "boxes.json", "images": folder / "images"}


def test_register(tmp_path, coco):
    paths = _write(tmp_path, coco)
    name = coco_format(**paths)
    assert coco_format(**paths) == name
    assert MetadataCatalog.get(name).thing_classes == ["cat", "dog"]
    assert num_classes(name) == 2
    dicts = DatasetCatalog.get(name)
    assert [d["image_id"] for d in dicts] == [3, 5, 8]
    assert [[a["category_id"] for a in d["annotations"]] for d in dicts] == [[1, 0], [0], []]
    assert [a["iscrowd"] for a in dicts[1]["annotations"]] == [1]
    assert MetadataCatalog.get(name).json_file == str(paths["json"])  # nothing to correct, so no copy


def test_names(tmp_path, coco):
    paths = _write(tmp_path, coco)
    assert coco_format(**paths, name="my_pets") == "my_pets"
    (tmp_path / "other").mkdir()
    others = _write(tmp_path / "other", coco)
    with pytest.raises(ValueError, match="'my_pets' is taken"):
        coco_format(**others, name="my_pets")
    assert coco_format(**others) != coco_format(**paths)


def test_changed_file_is_read_again(tmp_path, coco):
    name = coco_format(**_write(tmp_path, coco))
    coco["categories"].append({"id": 1, "name": "bird"})
    assert coco_format(**_write(tmp_path, coco)) == name
    assert MetadataCatalog.get(name).thing_classes == ["bird", "cat", "dog"]
    assert DatasetCatalog.get(name)[0]["annotations"][0]["category_id"] == 2


def _drop(kind):
    return lambda coco: coco.pop(kind)


def _set(kind, index, **values):
    return lambda coco: coco[kind][index].update(values)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop("images"), r"boxes\.json is not a COCO detection file: it has no list 'images'"),
        (_drop("annotations"), r"no list 'annotations' \(it has 'images', 'categories'\)"),
        (_drop("categories"), "no list 'categories'"),
        (lambda coco: coco.update(images=[]), "has no images"),
        (lambda coco: coco.update(categories=[]), "has no categories"),
        (_set("annotations", 1, category_id=99), r"1 annotations whose category_id .*: 12, with category_id 99"),
        (_set("annotations", 1, image_id=77), r"annotations whose image_id .*: 12, with image_id 77"),
        (_set("annotations", 1, id=11), "1 ids of 'annotations' given more than once: 11"),
        (_set("images", 1, id=3), "ids of 'images' given more than once: 3"),
        (_set("categories", 1, id=17), "ids of 'categories' given more than once: 17"),
        (_set("annotations", 1, id=None), r"'annotations' with number 1 \(counted from 0\) has no 'id'"),
        (_set("annotations", 1, category_id=None), "'annotations' with id 12 has no 'category_id'"),
        (_set("images", 1, height=None), "'images' with id 5 has no 'height'"),
        (_set("images", 1, height=0), r"image id 5 \(5\.png\) has width 40 and height 0"),
        (_set("categories", 0, name=None), "'categories' with id 17 has no 'name'"),
    ],
)
def test_wrong_json(tmp_path, coco, damage, message):
    damage(coco)
    with pytest.raises(DatasetError, match=message):
        coco_format(**_write(tmp_path, coco))


def test_wrong_files(tmp_path, coco):
    paths = _write(tmp_path, coco)
    with pytest.raises(DatasetError, match=r"Annotation file .*nowhere\.json does not exist"):
        coco_format(tmp_path / "nowhere.json", paths["images"])
    with pytest.raises(DatasetError, match=r"Image folder .*nowhere does not exist"):
        coco_format(paths["json"], tmp_path / "nowhere")
    (paths["images"] / "5.png").unlink()
    with pytest.raises(DatasetError, match=r"1 images \(of 3\) without a file: 5, the first is .*5\.png"):
        coco_format(**paths)
    paths["json"].write_text("[1, 2]")
    with pytest.raises(DatasetError, match=r"boxes\.json is not a COCO detection file: it holds a list"):
        coco_format(**paths)
    paths["json"].write_text('{"images": [')
    with pytest.raises(DatasetError, match=r"boxes\.json is not a JSON file: .*line 1 column 13"):
        coco_format(**paths)


@pytest.mark.parametrize(
    ("bbox", "reason"),
    [
        ([1, 2, 0, 5], "width or height of zero or less"),
        ([1, 2, 5, -3], "width or height of zero or less"),
        ([1, 2, float("nan"), 5], "NaN or infinity"),
        ([1, float("inf"), 5, 5], "NaN or infinity"),
        ([40, 2, 5, 5], "completely outside"),
        ([-9, 2, 5, 5], "completely outside"),
        ([1, 2, 5], "not four numbers"),
        ([1, 2, "5", 5], "not four numbers"),
        (None, "not four numbers"),
    ],
)
def test_bad_boxes_are_skipped_with_one_warning(tmp_path, coco, caplog, bbox, reason):
    coco["annotations"] += [
        {"id": 20 + k, "image_id": 8, "category_id": 4, "bbox": bbox, "area": 1, "iscrowd": 0} for k in range(7)
    ]
    paths = _write(tmp_path, coco)
    with caplog.at_level(logging.WARNING, logger="dino_d2"):
        name = coco_format(**paths)
        dicts = DatasetCatalog.get(coco_format(**paths))
    (record,) = [record for record in caplog.records if record.name.startswith("dino_d2")]
    assert "boxes.json: 7 of 10 annotations are skipped" in record.message
    assert reason in record.message
    assert "7 (ids 20, 21, 22, 23, 24 and 2 more)" in record.message
    assert [len(d["annotations"]) for d in dicts] == [2, 1, 0]
    assert len(json.loads(Path(MetadataCatalog.get(name).json_file).read_text())["annotations"]) == 3
    assert len(json.loads(paths["json"].read_text())["annotations"]) == 10  # the user's file is left alone


def test_box_partly_outside_is_kept(tmp_path, coco):
    coco["annotations"][0]["bbox"] = [-5, -5, 10, 10]
    (first, *_) = DatasetCatalog.get(coco_format(**_write(tmp_path, coco)))
    assert DetrDatasetMapper([])(first)["instances"].gt_boxes.tensor[0].tolist() == [0, 0, 5, 5]


def _perfect_ap(name: str) -> dict:
    """COCO's figures for predictions equal to the ground truth, with a second look at the crowds."""
    evaluator = COCOEvaluator(name, distributed=False)
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in record["annotations"]]
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]], dtype=torch.int64)
        instances.scores = torch.ones(len(boxes))
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


def test_evaluation_sees_the_same_ground_truth(tmp_path, coco):
    """Skipped boxes are not missed, gaps are filled, annotation 0 counts, crowds count for nobody."""
    coco["annotations"][0]["id"] = 0
    del coco["annotations"][0]["area"], coco["annotations"][1]["iscrowd"]
    coco["annotations"].append({"id": 14, "image_id": 8, "category_id": 4, "bbox": [3, 3, float("nan"), 5]})
    coco["annotations"].append({"id": 15, "image_id": 8, "category_id": 17, "bbox": [3, 3, 9, 9], "ignore": 1})
    coco["annotations"].append(
        {"id": 16, "image_id": 8, "category_id": 17, "bbox": [20, 10, 9, 9], "segmentation": [[1, 2]]}
    )
    name = coco_format(**_write(tmp_path, coco))
    assert _perfect_ap(name)["AP"] == pytest.approx(100)
    records = DatasetCatalog.get(name)
    assert [[a["iscrowd"] for a in record["annotations"]] for record in records] == [[0, 0], [1], [1, 0]]


@needs_coco_tiny
@pytest.mark.parametrize(("split", "objects", "crowds", "empty"), [("train", 465, 5, 1), ("val", 377, 5, 2)])
def test_real_photographs(split, objects, crowds, empty):
    name = coco_format(COCO_TINY / "annotations" / f"instances_{split}2017.json", COCO_TINY / f"{split}2017")
    records = DatasetCatalog.get(name)
    annotations = [a for record in records for a in record["annotations"]]
    assert num_classes(name) == 80
    assert sum(a["iscrowd"] for a in annotations) == crowds
    assert sum(not record["annotations"] for record in records) == empty
    mapped = [DetrDatasetMapper([])(record) for record in records]
    assert sum(len(m["instances"]) for m in mapped) == objects
    for m in mapped:
        height, width = m["image"].shape[1:]
        boxes = m["instances"].gt_boxes.tensor
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
    assert np.isclose(_perfect_ap(name)["AP"], 100)


def test_categories_of_a_registered_dataset_are_those_of_its_json(tmp_path):
    entries = [{"id": 90, "name": "z"}, {"id": 7, "name": "a"}]
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    image = {"id": 1, "file_name": "1.png", "width": 8, "height": 8}
    (tmp_path / "a.json").write_text(json.dumps({"images": [image], "annotations": [], "categories": entries}))
    assert categories(coco_format(tmp_path / "a.json", tmp_path)) == [entries[1], entries[0]]
    assert categories("a dataset that nobody registered") is None


def test_bad_images_are_left_out_where_asked_for(tmp_path, coco, caplog):
    paths = _write(tmp_path, coco)
    before = coco_format(**paths)
    (paths["images"] / "3.png").write_bytes((paths["images"] / "3.png").read_bytes()[:-30])
    (paths["images"] / "8.png").unlink()
    count = sum(annotation["image_id"] in (3, 8) for annotation in coco["annotations"])
    name = coco_format(**paths, skip_bad_images=True)
    assert name != before
    assert [d["image_id"] for d in DatasetCatalog.get(name)] == [5]
    assert MetadataCatalog.get(name).num_images == 1
    (warning,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert f"2 of 3 images cannot be read and are left out, with their {count} annotations" in warning
    assert "3.png (" in warning
    assert "8.png (there is no such file)" in warning
    used = json.loads(source_of(name).json.read_text())
    assert [image["id"] for image in used["images"]] == [5]
    assert {annotation["image_id"] for annotation in used["annotations"]} == {5}
    caplog.clear()
    assert coco_format(**paths, skip_bad_images=True) == name
    assert not caplog.records, "the images are decoded once"


def test_nothing_is_left_out_of_a_sound_dataset(tmp_path, coco, caplog):
    paths = _write(tmp_path, coco)
    name = coco_format(**paths, skip_bad_images=True)
    assert source_of(name).json == paths["json"]
    assert MetadataCatalog.get(name).json_file == str(paths["json"])
    assert "left out" not in caplog.text


def test_other_faults_remain_errors_where_bad_images_are_left_out(tmp_path, coco):
    for image in coco["images"]:
        image["width"] = "wide"
    with pytest.raises(DatasetError, match="width"):
        coco_format(**_write(tmp_path, coco), skip_bad_images=True)


def test_all_images_are_bad(tmp_path, coco):
    paths = _write(tmp_path, coco)
    for file in paths["images"].glob("*.png"):
        file.write_text("no image")
    with pytest.raises(DatasetError, match="none of its 3 images"):
        coco_format(**paths, skip_bad_images=True)
