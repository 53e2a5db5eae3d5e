# SPDX-License-Identifier: Apache-2.0
"""Detections written as YOLO, CSV and LabelMe files are read back by the converters of this project."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.data.convert.__main__ import find_format
from dino_d2.data.convert.labelme import read_labelme
from dino_d2.data.convert.table import read_csv
from dino_d2.data.convert.yolo import read_yolo
from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.errors import UserError
from dino_d2.predict.inputs import gather
from dino_d2.predict.label_files import WRITERS, check_names

READERS = {"yolo": read_yolo, "csv": read_csv, "labelme": read_labelme}
NAMES = ["cat", 'a "quoted", long name', "Blütenstand"]
BOXES = {
    "a.png": [(0, [0.0, 0.0, 640.0, 480.0], 0.9), (2, [10.126, 20.5, 33.333, 47.99], 0.512)],
    "more/a.png": [(1, [600.25, 0.01, 640.0, 0.51], 0.4)],
    "more/empty.png": [],
}


def found(name: str) -> Instances:
    instances = Instances((480, 640))
    instances.pred_boxes = Boxes(torch.tensor([box for _, box, _ in BOXES[name]]).reshape(-1, 4))
    instances.scores = torch.tensor([score for *_, score in BOXES[name]])
    instances.pred_classes = torch.tensor([k for k, *_ in BOXES[name]], dtype=torch.int64)
    return instances


@pytest.fixture
def pictures(tmp_path):
    for name in BOXES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (640, 480)).save(tmp_path / "images" / name)
    return tmp_path / "images"


@pytest.mark.parametrize("form", WRITERS)
def test_what_is_written_is_read_back(form, pictures, tmp_path):
    inputs = gather([str(pictures)], recursive=True)
    check_names(inputs, form)
    root = pictures if form == "csv" else tmp_path  # names in a CSV are relative to the folder of the pictures
    writer = WRITERS[form](root, NAMES)
    for one in inputs:
        writer.write(one, found(one.name))
    writer.close()
    assert find_format(root) == form
    dataset = READERS[form](root)
    assert sorted(dataset.classes) == sorted(NAMES)
    assert dataset.notes == []
    read = {image.file.relative_to(pictures).as_posix(): image for image in dataset.splits[None]}
    assert read.keys() == BOXES.keys()
    for name, expected in BOXES.items():
        assert (read[name].width, read[name].height) == (640, 480)
        assert [box.name for box in read[name].boxes] == [NAMES[k] for k, *_ in expected]
        for box, (_, (left, top, right, bottom), _) in zip(read[name].boxes, expected, strict=True):
            np.testing.assert_allclose(box.xywh, (left, top, right - left, bottom - top), atol=0.011)


def test_two_pictures_that_would_share_labels_are_refused(pictures):
    both = gather([str(pictures / "a.png"), str(pictures / "more" / "a.png")])
    for form in WRITERS:
        with pytest.raises(UserError, match=r"a\.png would share their labels"):
            check_names(both, form)
    Image.new("RGB", (8, 8)).save(pictures / "a.jpg")
    check_names(gather([str(pictures)]), "csv")
    with pytest.raises(UserError, match=r"a\.jpg and .*a\.png would share"):
        check_names(gather([str(pictures)]), "yolo")


def test_a_recursive_search_keeps_folders_in_names_and_leaves_the_output_out(pictures):
    shutil.copytree(pictures / "more", pictures / "found" / "more")
    names = [one.name for one in gather([str(pictures)], recursive=True, output=pictures / "found")]
    assert names == ["a.png", "more/a.png", "more/empty.png"]
    assert [one.name for one in gather([str(pictures)])] == ["a.png"]
    with pytest.raises(UserError, match="contains neither pictures nor videos"):
        gather([str(pictures / "found")], recursive=True, output=pictures / "found")


def test_labelme_finds_the_picture_from_its_file(pictures, tmp_path):
    writer = WRITERS["labelme"](tmp_path / "out", NAMES)
    (one,) = gather([str(pictures / "a.png")])
    writer.write(one, found("a.png"))
    content = json.loads((tmp_path / "out" / "labels" / "a.json").read_text())
    assert (tmp_path / "out" / "labels" / content["imagePath"]).samefile(pictures / "a.png")
    assert [shape["score"] for shape in content["shapes"]] == [0.9, 0.512]
