# SPDX-License-Identifier: Apache-2.0
"""Each field of a json: what is brought to one type, what is skipped and what is refused."""

import json
import os

import pytest

from dino_d2.data.check import DatasetError, check, normalise, read_coco
from dino_d2.data.coco_format import class_names, coco_format
from dino_d2.data.folders import custom_dataset
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from tests.data import fuzz


def coco_with(kind: str, **values) -> dict:
    """The valid json, with other values in the first entry of a list."""
    coco = fuzz.valid_coco()
    coco[kind][0].update(values)
    return coco


def first_annotation(**values) -> dict:
    return normalise(coco_with("annotations", **values), "x.json").coco["annotations"][0]


def test_a_valid_json_stays_as_it_is():
    coco = fuzz.valid_coco()
    normalised = normalise(coco, "x.json")
    assert normalised == (coco, {}, {}, True)


@pytest.mark.parametrize("value", [None, "0", 0.0, False, "absent"])
def test_no_crowd(value):
    coco = coco_with("annotations", iscrowd=value)
    if value == "absent":
        del coco["annotations"][0]["iscrowd"]
    first = normalise(coco, "x.json").coco["annotations"][0]
    assert (first["iscrowd"], type(first["iscrowd"])) == (0, int)


@pytest.mark.parametrize("values", [{"iscrowd": "1"}, {"iscrowd": True}, {"ignore": 1}, {"ignore": "1"}])
def test_crowd(values):
    first = first_annotation(**values)
    assert (first["iscrowd"], type(first["iscrowd"])) == (1, int)
    assert not first.get("ignore")


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ("5", 5),
        (5, 5),
        (None, 90),
        (-1, 90),
        (0, 90),
        (float("nan"), 90),
        (1e300, 90),
        ([5], 90),
        ("x", 90),
        (True, 90),
        (90 / 307200, 90),  # a share of an image of 640 x 480 pixels
    ],
)
def test_area(area, expected):
    assert first_annotation(area=area)["area"] == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("segmentation", [[1, 1, 5, 1, 5, 5], 3]),
        ("segmentation", {"counts": [], "size": []}),
        ("segmentation", {"counts": [10**30], "size": [10**15, 10**15]}),
        ("segmentation", "polygon"),
        ("keypoints", [None, 2, 2]),
        ("keypoints", [1, 2]),
        ("keypoints", {"a": 1}),
    ],
)
def test_what_boxes_do_not_need_is_dropped(key, value):
    first = first_annotation(**{key: value})
    assert key not in first
    assert first["bbox"] == [1, 2, 10, 9]


def test_values_that_are_nested_too_deeply_are_dropped():
    deep: list = []
    for _ in range(50_000):
        deep = [deep]
    assert "attributes" not in first_annotation(attributes=deep)
    assert "info" not in normalise({**fuzz.valid_coco(), "info": deep}, "x.json").coco


@pytest.mark.parametrize("bbox", [[1, 2, 1e-6, 5], [1, 2, 10**400, 5], [-1e308, 0, 1e308, 5], [True, 2, 3, 4], "1234"])
def test_boxes_that_cannot_be_used_are_skipped(bbox):
    normalised = normalise(coco_with("annotations", bbox=bbox), "x.json")
    assert [a["id"] for a in normalised.coco["annotations"]] == [12, 13]
    assert list(normalised.skipped.values()) == [[11]]


@pytest.mark.parametrize("value", [2, -1, "yes", [], 0.5, float("nan")])
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_flags_that_are_none_are_skipped(key, value):
    assert normalise(coco_with("annotations", **{key: value}), "x.json").skipped == {f"{key} is neither 0 nor 1": [11]}


def test_ids_of_one_type():
    """Whole numbers as text or with a fraction of zero, in ids and in references to them."""
    coco = fuzz.valid_coco()
    coco["images"][0]["id"] = "0003"
    coco["categories"][0]["id"] = 17.0
    coco["annotations"][0]["image_id"] = 3.0
    coco["annotations"][1]["category_id"] = "4"
    fixed = normalise(coco, "x.json").coco
    assert [image["id"] for image in fixed["images"]] == [3, 5, 8]
    assert [a["image_id"] for a in fixed["annotations"]] == [3, 3, 5]
    assert [a["category_id"] for a in fixed["annotations"]] == [17, 4, 4]
    assert {type(entry["id"]) for kind in ("images", "categories") for entry in fixed[kind]} == {int}


def test_text_ids_of_all_images_stay():
    coco = fuzz.valid_coco()
    for image in coco["images"]:
        image["id"] = f"photo {image['id']}"
    for annotation in coco["annotations"]:
        annotation["image_id"] = f"photo {annotation['image_id']}"
    assert normalise(coco, "x.json").coco["images"][0]["id"] == "photo 3"


@pytest.mark.parametrize("annotation_id", [0, -5, "0", "a1b2", 2**60, 10**400])
def test_annotation_ids_that_pycocotools_cannot_store_are_replaced(annotation_id):
    ids = [a["id"] for a in normalise(coco_with("annotations", id=annotation_id), "x.json").coco["annotations"]]
    assert ids == [14, 12, 13]


def test_numbers_as_class_names_are_text(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    coco = fuzz.valid_coco()
    for category, name in zip(coco["categories"], (0, 1.5), strict=True):
        category["name"] = name
    coco["categories"][0]["supercategory"] = ["animal"]
    fuzz.write_images(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(coco))
    assert class_names(coco_format(tmp_path / "x.json", tmp_path)) == ["1.5", "0"]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("images", {"id": [3]}, r"'images' has the id a list of 1; ids must be whole numbers"),
        ("images", {"id": True}, r"'images' has the id True"),
        ("images", {"id": 3.5}, r"'images' has the id 3\.5"),
        ("images", {"id": float("inf")}, r"'images' has the id inf"),
        ("images", {"id": 2**64}, r"'images' has the id a number of more than 64 bits"),
        ("images", {"id": "one"}, r"'images' has the id 'one'"),
        ("images", {"file_name": 3}, r"image id 3 has the file_name 3; it must be text"),
        ("images", {"file_name": "a\0b"}, r"image id 3 has the file_name"),
        ("images", {"file_name": "\ud800"}, r"image id 3 has the file_name"),
        ("images", {"width": "wide"}, r"image id 3 \(3\.png\) has width 'wide' and height 30"),
        ("images", {"height": 30.5}, r"height 30\.5; both must be positive whole numbers"),
        ("images", {"width": float("nan")}, r"has width nan"),
        ("images", {"width": 10**400}, r"has width a number of more than 64 bits"),
        ("categories", {"name": ["dog"]}, r"category id 17 has the name a list of 1; it must be text"),
        ("categories", {"name": True}, r"category id 17 has the name True"),
        ("categories", {"name": "dog\ncat"}, r"category id 17 has the name 'dog\\ncat'; .* without line breaks"),
        ("categories", {"name": "\x1b[31mdog"}, r"category id 17 has the name"),
        ("categories", {"id": {}}, r"'categories' has the id a JSON object of 0"),
        ("annotations", {"id": [11]}, r"'annotations' has the id a list of 1"),
        ("annotations", {"image_id": [3]}, r"'annotations' with id 11 has image_id a list of 1"),
        ("annotations", {"category_id": 17.5}, r"'annotations' with id 11 has category_id 17\.5"),
    ],
)
def test_what_cannot_be_used_at_all_is_refused_with_file_id_and_field(kind, values, message):
    with pytest.raises(DatasetError, match=r"x\.json: .*" + message):
        normalise(coco_with(kind, **values), "x.json")


def test_many_mistakes_make_a_short_message():
    coco = fuzz.valid_coco()
    coco["annotations"] = [7] * 100
    with pytest.raises(DatasetError, match=r"number 0 \(counted from 0\) is 7, not a JSON object") as error:
        normalise(coco, "x.json")
    assert "and 95 more" in str(error.value)


def test_a_json_without_one_usable_annotation_is_refused(tmp_path):
    coco = fuzz.valid_coco()
    for annotation in coco["annotations"]:
        annotation["bbox"] = None
    fuzz.write_images(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(coco))
    with pytest.raises(DatasetError, match="3 annotations, which is all, cannot be used: 11, 12, 13"):
        read_coco(tmp_path / "x.json", tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}", '{"images": "\x00"}'])
def test_json_that_python_cannot_read(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=r"x\.json is (not a JSON file|nested too deeply)"):
        read_coco(tmp_path / "x.json", tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    coco = coco_with("categories", name="Straße")
    fuzz.write_images(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(coco, ensure_ascii=False), encoding=encoding)
    name = coco_format(tmp_path / "x.json", tmp_path)
    assert len(DatasetCatalog.get(name)) == 3
    assert MetadataCatalog.get(name).thing_classes == ["cat", "Straße"]


@pytest.mark.parametrize(
    "file_name", ["../secret.png", "a/../../secret.png", "{root}/secret.png", "..\\secret.png", "C:\\x"]
)
def test_paths_that_leave_the_image_folder_are_refused(file_name, tmp_path):
    """Refused although the file is there; and used where the config asks for it."""
    images = tmp_path / "images"
    fuzz.write_images(images)
    (images / "3.png").rename(tmp_path / "secret.png")
    coco = coco_with("images", file_name=file_name.format(root=tmp_path))
    (tmp_path / "x.json").write_text(json.dumps(coco))
    with pytest.raises(
        DatasetError, match=r"1 images whose file_name leads out of the dataset's folder: 3, .*data\.within"
    ):
        read_coco(tmp_path / "x.json", images)


def test_paths_that_leave_the_image_folder_on_request(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    images = tmp_path / "images"
    fuzz.write_images(images)
    (images / "3.png").rename(tmp_path / "3.png")
    (tmp_path / "train.json").write_text(json.dumps(coco_with("images", file_name="../3.png")))
    assert len(read_coco(tmp_path / "train.json", images, within=tmp_path)["images"]) == 3
    # data.root is such a folder: the file names of its jsons may lead anywhere in it.
    name = custom_dataset("train", tmp_path, images=images)
    assert len(DatasetCatalog.get(name)) == 3


def test_a_folder_is_no_image(tmp_path):
    fuzz.write_images(tmp_path)
    (tmp_path / "folder").mkdir()
    findings = check(coco_with("images", file_name="folder"), tmp_path)
    assert any(f.is_error and f.ids == [3] and "cannot be read" in f.what for f in findings)


def test_a_pipe_is_no_json(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(DatasetError, match="is not a file"):
        read_coco(tmp_path / "x.json", tmp_path)
