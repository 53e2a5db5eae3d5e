# SPDX-License-Identifier: Apache-2.0
"""Class names of a recipe's dataset, read without touching the dataset."""

import json

import pytest
from omegaconf import OmegaConf

from dino_d2.data.category_lookup import look_up_categories
from dino_d2.data.coco_format import coco_format
from dino_d2.data.folders import custom_dataset
from dino_d2.data.objects365 import objects365
from dino_d2.data.shapes import shapes
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.errors import UserError

CATEGORIES = [{"id": 3, "name": "ant"}, {"id": 7, "name": "bee"}]


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "data" / "valid" / "_annotations.coco.json"
    path.parent.mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": [CATEGORIES[1], {**CATEGORIES[0], "supercategory": ""}]}
    path.write_text(json.dumps(content))
    return path


def test_names_come_from_the_annotation_file_in_the_order_of_ids(annotations):
    registered = set(DatasetCatalog.list())
    assert look_up_categories(L(coco_format)(json=str(annotations), images="gone")) == CATEGORIES
    assert look_up_categories(L(custom_dataset)(split="val", json=str(annotations), root=None)) == CATEGORIES
    root = OmegaConf.create({"root": str(annotations.parents[1])})
    root.names = L(custom_dataset)(split="val", root="${root}", json=None)
    assert look_up_categories(root.names) == CATEGORIES
    assert look_up_categories(OmegaConf.create([L(coco_format)(json=str(annotations), images="")] * 2)) == CATEGORIES
    assert set(DatasetCatalog.list()) == registered


def test_objects365_and_generated_shapes(annotations, tmp_path):
    assert look_up_categories(L(shapes)(split="val", root=str(tmp_path / "shapes")))[4] == {"id": 5, "name": "ring"}
    folder = tmp_path / "objects365" / "annotations"
    folder.mkdir(parents=True)
    annotations.rename(folder / "zhiyuan_objv2_val.json")
    assert look_up_categories(L(objects365)(split="val_rest", root=str(folder.parent))) == CATEGORIES
    assert not (tmp_path / "shapes").exists()


def test_a_registered_name():
    assert look_up_categories("coco_2017_val")[79] == {"id": 90, "name": "toothbrush"}


def own_dataset() -> str:
    pytest.fail("asking for names must not call this")


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("no such name", "'no such name' is not registered"),
        (L(own_dataset)(), "own_dataset, which would have to be called"),
        (L(coco_format)(json="gone.json", images="."), r"gone\.json"),
        (L(coco_format)(json=__file__, images="."), "JSONDecodeError"),
        (L(custom_dataset)(split="val"), "no val dataset is given"),
        (None, "names no dataset"),
    ],
)
def test_names_that_cannot_be_found_are_an_error_that_says_why(dataset, message):
    with pytest.raises(UserError, match=message):
        look_up_categories(dataset)


def test_faulty_categories_are_an_error(annotations):
    annotations.write_text(json.dumps({"categories": [{"id": 1}]}))
    with pytest.raises(UserError, match="name"):
        look_up_categories(L(coco_format)(json=str(annotations), images="gone"))
