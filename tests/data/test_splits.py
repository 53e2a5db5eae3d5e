# SPDX-License-Identifier: Apache-2.0
"""Names of splits, and photographs that are in both."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dino_d2.data.check.__main__ import main
from dino_d2.data.check.splits import shared_contents, shared_names, source_name
from dino_d2.data.folders import DatasetError, find_json
from dino_d2.data.split_names import split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train2017", "train"),
        ("instances_val2017", "val"),
        ("valid", "val"),
        ("Validation", "val"),
        ("valSet", "val"),
        ("my-training-set", "train"),
        ("TEST", "test"),
        ("trainval", None),
        ("instances_trainval2017", None),
        ("train_val", None),
        ("valley", None),
        ("values", None),
        ("interval", None),
        ("evaluation", None),
        ("evaluation_train", "train"),
        ("strain", None),
        ("trainer", None),
        ("contest", None),
        ("", None),
    ],
)
def test_splits_are_named_by_whole_words(name, split):
    assert split_of(name) == split


@pytest.mark.parametrize(
    "name", ["trainval.json", "annotations/instances_trainval2017.json", "train_and_val.json", "valley/labels.json"]
)
def test_a_json_of_both_splits_or_of_none_is_found_for_neither(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    for split in ("train", "val"):
        with pytest.raises(DatasetError, match=f"no {split} annotations"):
            find_json(tmp_path, split)


def test_a_missing_split_beside_the_other(tmp_path):
    """No advice to convert a folder that has been converted."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").touch()
    (tmp_path / "labels").mkdir()
    with pytest.raises(DatasetError, match=r"there are train annotations .*but no val annotations") as error:
        find_json(tmp_path, "val")
    assert "convert" not in str(error.value)


def test_the_photograph_of_a_copy():
    first, second = "a/dog_jpg.rf.0a1b2c3d.jpg", "b/dog_jpg.rf.FfEe99.JPG"
    assert source_name(first) == source_name(second) == "dog_jpg.jpg"
    assert source_name("a/dog.jpg") == "dog.jpg"
    assert source_name("a/surf.rf.png") == "surf.rf.png"


def _json(folder: Path, name: str, files: list[str]) -> Path:
    """A json of these files, each with one object."""
    coco = {
        "images": [{"id": i, "file_name": file, "width": 40, "height": 30} for i, file in enumerate(files, 1)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [1, 2, 10, 9]} for i, _ in enumerate(files, 1)
        ],
    }
    (folder / name).write_text(json.dumps(coco))
    return folder / name


def test_photographs_in_both_splits(tmp_path, capsys):
    noise = np.random.default_rng(0)
    for name in ("a.png", "x.rf.1.png", "x.rf.2.png", "b.png", "c.png", "d.png"):
        Image.fromarray(noise.integers(0, 255, (30, 40, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "copy of b.png").write_bytes((tmp_path / "b.png").read_bytes())
    train = _json(tmp_path, "train.json", ["a.png", "x.rf.1.png", "b.png", "d.png"])
    val = _json(tmp_path, "val.json", ["a.png", "x.rf.2.png", "copy of b.png", "c.png"])
    sets = json.loads(train.read_text()), tmp_path, json.loads(val.read_text()), tmp_path
    assert [(f.what, f.ids) for f in shared_names(*sets)] == [
        ("validation images are training images as well", [1]),
        ("validation images have a copy (.rf.) in the training set", [2]),
    ]
    assert [f.ids for f in shared_contents(*sets)] == [[3]]
    assert main([str(val), str(tmp_path), "--train", str(train), str(tmp_path)]) == 0
    assert "0 kinds of errors, 4 of warnings" in capsys.readouterr().out  # these three, and few examples
    other = _json(tmp_path, "other.json", ["c.png"])
    assert not list(shared_names(*sets[:2], json.loads(other.read_text()), tmp_path))
