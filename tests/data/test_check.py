# SPDX-License-Identifier: Apache-2.0
"""python -m dino_d2.data.check: one dataset with every fault, and each fault alone."""

import json

import numpy as np
import pytest
from PIL import Image

from dino_d2.data.check import DatasetError, check, table
from dino_d2.data.check.__main__ import main
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.pictures import read_header
from dino_d2.engine.datasets import check_datasets
from tests.processes import run_python


@pytest.fixture
def coco(tmp_path) -> dict:
    """Twelve images of noise with an object each: nothing to find but the few examples."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    for i in range(1, 13):
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(1, 13)],
        "categories": [{"id": 4, "name": "cat"}],
        "annotations": [{"id": i, "image_id": i, "category_id": 4, "bbox": [1, 2, 10, 9]} for i in range(1, 13)],
    }


def _cut_off(coco, folder):
    data = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(data[: len(data) // 2])


def _turned(coco, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(folder / "2.jpg", exif=exif)
    coco["images"][1]["file_name"] = "2.jpg"


def _on(kind, index, **values):
    return lambda coco, folder: coco[kind][index].update(values)


def _shares(coco, folder):
    for annotation in coco["annotations"]:
        annotation["bbox"] = [0.1, 0.2, 0.5, 0.6]


def _corners(coco, folder):
    for annotation in coco["annotations"]:
        annotation["bbox"] = [15, 12, 35, 28]


def _centres(coco, folder):
    for annotation in coco["annotations"]:
        annotation["bbox"] = [30, 12, 36, 8]


def _twice(coco, folder):
    coco["annotations"].append({**coco["annotations"][2], "id": 40})


def _names_alike(coco, folder):
    coco["categories"].append({"id": 5, "name": "C at"})
    coco["annotations"] += [{"id": 20 + i, "image_id": i, "category_id": 5, "bbox": [1, 2, 8, 7]} for i in range(1, 13)]


def _crowd(coco, folder):
    coco["annotations"] += [
        {"id": 20 + k, "image_id": 5, "category_id": 4, "bbox": [1, 2, 9, 9 + k / 10]} for k in range(100)
    ]


FAULTS = {  # what happens to the dataset -> (error?, words, ids)
    "missing file": (lambda c, f: (f / "3.png").unlink(), True, "images (of 12) without a file", [3]),
    "not an image": (lambda c, f: (f / "3.png").write_text("<html>"), True, "images that cannot be read", [3]),
    "cut off": (_cut_off, True, "images that cannot be read", [3]),
    "other size": (_on("images", 1, width=30, height=40), True, "images with another size", [2]),
    "EXIF rotation": (_turned, True, "images with another size", [2]),
    "image id twice": (_on("images", 1, id=1), True, "ids of 'images' given more than once", [1]),
    "annotation id twice": (_on("annotations", 1, id=1), True, "ids of 'annotations' given more than once", [1]),
    "unknown image": (_on("annotations", 1, image_id=99), True, "annotations whose image_id is not in", [2]),
    "unknown category": (_on("annotations", 1, category_id=9), True, "annotations whose category_id is not in", [2]),
    "zero area": (_on("annotations", 1, bbox=[1, 2, 0, 5]), False, "width or height of zero", [2]),
    "outside": (_on("annotations", 1, bbox=[50, 2, 9, 5]), False, "completely outside", [2]),
    "more objects than AP counts": (_crowd, False, "images with more than 100 objects of one class", [5]),
    "partly outside": (_on("annotations", 1, bbox=[-5, 2, 9, 5]), False, "partly outside", [2]),
    "not finite": (_on("annotations", 1, bbox=[1, 2, float("nan"), 5]), False, "NaN", [2]),
    "three numbers": (_on("annotations", 1, bbox=[1, 2, 5]), False, "not four numbers", [2]),
    "few examples": (
        lambda c, f: [c["categories"].append({"id": 5, "name": "dog"}), c["annotations"][0].update(category_id=5)],
        False,
        "categories with fewer than 10 objects",
        [5],
    ),
    "no example": (lambda c, f: c["categories"].append({"id": 5, "name": "dog"}), False, "without an object", [5]),
    "same name": (lambda c, f: c["categories"].append({"id": 5, "name": "cat"}), False, "name of another", [4, 5]),
    "empty image": (lambda c, f: c["annotations"].pop(), False, "images without an object", [12]),
    "no objects at all": (lambda c, f: c["annotations"].clear(), True, "images, which is all", list(range(1, 13))),
    "boxes as shares": (_shares, True, "annotations whose bbox lies in 0..1", list(range(1, 13))),
    "corners": (_corners, True, "seems to be [x0, y0, x1, y1], two corners", list(range(1, 13))),
    "centres": (_centres, False, "partly outside", list(range(1, 13))),
    "one box as shares": (_on("annotations", 1, bbox=[0.1, 0.2, 0.5, 0.6]), False, "while others do not", [2]),
    "the same box twice": (_twice, False, "annotations with the class and bbox of another one", [3, 40]),
    "names alike": (_names_alike, False, "categories whose names differ in capital letters or spaces alone", [4, 5]),
    "file twice": (_on("images", 1, file_name="1.png"), False, "listed more than once", [1, 2]),
}


def test_nothing_to_find(coco, tmp_path):
    assert check(coco, tmp_path) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_and_nothing_else(fault, coco, tmp_path):
    damage, is_error, words, ids = FAULTS[fault]
    damage(coco, tmp_path)
    found = [f for f in check(coco, tmp_path) if words in f.what]
    assert [(f.is_error, f.ids) for f in found] == [(is_error, ids)]
    others = [f.what for f in check(coco, tmp_path) if f not in found]
    # A fault may leave an image or a category without an object, and one id given twice is another one's lack.
    allowed = ("without an object", "whose image_id is not in") if "twice" in fault else ("without an object",)
    assert all(any(words in what for words in allowed) for what in others), others


def test_many_boxes_beyond_their_images_may_be_of_another_format(coco, tmp_path):
    _centres(coco, tmp_path)
    assert ["COCO's boxes are [x, y, width, height]" in finding.advice for finding in check(coco, tmp_path)] == [True]


def test_careless_boxes_of_the_size_of_the_image_are_no_corners(coco, tmp_path):
    for annotation in coco["annotations"]:
        annotation["bbox"] = [2, 2, 40, 30]
    assert [finding.what for finding in check(coco, tmp_path)] == ["annotations whose bbox is partly outside its image"]


def test_reading_the_first_bytes_alone(coco, tmp_path):
    """What the start of a run looks at: no image and other sizes, but not files that are cut off."""
    for fault, is_found in (("not an image", True), ("EXIF rotation", True), ("cut off", False)):
        damage, _, words, _ = FAULTS[fault]
        damage(coco, tmp_path)
        assert any(words in f.what for f in check(coco, tmp_path, decode=False)) == is_found
        Image.new("RGB", (40, 30)).save(tmp_path / "3.png")
        coco["images"][1]["file_name"] = "2.png"
    (tmp_path / "9.png").write_text("")
    assert not any(f.is_error for f in check(coco, tmp_path, open_at_most=8, decode=False))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_size_is_that_of_the_mapper(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"1.{suffix}"
    Image.new("RGB", (40, 30)).save(path, exif=exif)
    mapped = DetrDatasetMapper([])({"file_name": str(path)})
    for decode in (True, False):
        assert read_header(path, decode)[:2] == (mapped["width"], mapped["height"])


def test_command(coco, tmp_path):
    _on("annotations", 1, bbox=[1, 2, 0, 5])(coco, tmp_path)
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(coco))
    assert main([str(file), str(tmp_path)]) == 0
    (tmp_path / "3.png").unlink()
    run = run_python("-m", "dino_d2.data.check", file, tmp_path)
    assert run.returncode == 1
    assert "12 images, 11 objects" in run.stdout  # one box has no area
    assert run.stdout.index("error") < run.stdout.index("warning")
    assert "1 kinds of errors, 2 of warnings: training would stop." in run.stdout
    file.write_text("{")
    run = run_python("-m", "dino_d2.data.check", file, tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert f"error: {file} is not a JSON file" in run.stderr
    assert "Traceback" not in run.stderr


def test_table_has_the_count_and_the_first_ids(coco, tmp_path):
    coco["annotations"] = coco["annotations"][:2]
    text = " ".join(table(check(coco, tmp_path)).split())
    assert "warning 10 images without an object 3, 4, 5 and 7 more" in text


def test_start_of_a_run(coco, tmp_path, caplog):
    from omegaconf import OmegaConf

    from dino_d2.data.coco_format import coco_format

    _on("annotations", 1, bbox=[1, 2, 0, 5])(coco, tmp_path)
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    name = coco_format(tmp_path / "boxes.json", tmp_path)
    cfg = OmegaConf.create(
        {"dataloader": {"test": {"dataset": {"names": name}}}, "model": {"detector": {"num_classes": 1}}}
    )
    check_datasets(cfg, splits=("test",))
    assert "width or height of" in caplog.text
    (tmp_path / "7.png").write_text("not an image")
    with pytest.raises(DatasetError, match=r"boxes\.json: 1 images that cannot be read: 7, the first is .*7\.png"):
        check_datasets(cfg, splits=("test",))
