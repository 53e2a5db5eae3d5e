# SPDX-License-Identifier: Apache-2.0
"""Datasets that a function registers: what is refused before a run."""

import pytest

from dino_d2.data.check import DatasetError
from dino_d2.data.check.registered import check_registered
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.structures import BoxMode


def image(**changes) -> dict:
    annotation = {"bbox": [1, 2, 3, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}
    return {"file_name": "a.jpg", "height": 9, "width": 8, "image_id": 0, "annotations": [annotation]} | changes


def annotated(**changes) -> dict:
    (annotation,) = image()["annotations"]
    return image(annotations=[{k: v for k, v in (annotation | changes).items() if v is not None}])


@pytest.fixture
def register():
    """A function that registers a dataset of dicts."""

    def register(dicts, classes=("cat", "dog")) -> str:
        DatasetCatalog.register("of_a_function", lambda: dicts)
        if classes:
            MetadataCatalog.get("of_a_function").thing_classes = list(classes)
        return "of_a_function"

    yield register
    DatasetCatalog.remove("of_a_function")
    if "of_a_function" in MetadataCatalog:
        MetadataCatalog.remove("of_a_function")


def test_a_good_dataset_passes(register):
    check_registered(register([image(), image(image_id=1, annotations=[])]), evaluated=True)


@pytest.mark.parametrize(
    ("dicts", "message"),
    [
        ([], "returns no images"),
        ([{"height": 3, "width": 3, "image_id": 0}], r"image number 0 \(no file name\): has no file_name"),
        ([annotated(bbox_mode=None)], r"image number 0 \(a.jpg\), annotation 0: has no bbox_mode"),
        ([annotated(bbox=[1, 2, 3, 4, 5])], "must be 4 numbers"),
        ([annotated(bbox_mode=BoxMode.XYXY_REL)], "must be BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"),
        ([annotated(category_id=2)], "category_id=2, but its 2 classes are numbered 0 to 1"),
        ([annotated(category_id=-1)], "category_id=-1"),
        ([annotated(category_id="dog")], "category_id='dog'"),
    ],
)
@pytest.mark.parametrize("evaluated", [True, False])
def test_what_no_dataset_may_have(register, dicts, message, evaluated):
    with pytest.raises(DatasetError, match=message):
        check_registered(register(dicts), evaluated)


@pytest.mark.parametrize(
    ("dicts", "classes", "message"),
    [
        ([image()], (), r'MetadataCatalog.get\("of_a_function"\).thing_classes = '),
        ([{"file_name": "a.jpg", "height": 3}], ("cat",), "has no width, image_id"),
        ([image(), image()], ("cat", "dog"), "image number 1 .*has the image_id 0 of image number 0"),
        ([image(annotations=[])], ("cat",), "nothing to evaluate with"),
    ],
)
def test_what_a_test_set_needs(register, dicts, classes, message):
    name = register(dicts, classes)
    check_registered(name, evaluated=False)
    with pytest.raises(DatasetError, match=message):
        check_registered(name, evaluated=True)


def test_a_torch_dataset_is_not_read(register):
    check_registered(register(iter(()), classes=()), evaluated=True)
