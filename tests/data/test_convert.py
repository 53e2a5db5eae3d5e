# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC and YOLO folders to COCO: boxes worked out by hand, splits, and faults by file and line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from dino_d2.data.check import check, read_coco
from dino_d2.data.coco_format import class_names
from dino_d2.data.convert.__main__ import main
from dino_d2.data.folders import custom_dataset

# In an image of 40 x 20: pixels 5 to 14 across and 3 to 12 down (counted from 0), and the whole image.
BOX, WHOLE = [5, 3, 10, 10], [0, 0, 40, 20]
VOC_BOX, VOC_WHOLE = (6, 4, 15, 13), (1, 1, 40, 20)
YOLO_BOX, YOLO_WHOLE = "1 0.25 0.4 0.25 0.5", "0 0.5 0.5 1 1"
POLYGON = "1 0.125 0.15 0.375 0.15 0.375 0.65 0.25 0.3"


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20)).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def voc_xml(path: Path, *objects: tuple, size=(40, 20)) -> Path:
    things = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in objects
    )
    width, height = size
    return text(
        path,
        f"<annotation><filename>{path.stem}.jpg</filename><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{things}</annotation>",
    )


OBJECTS = ("dog", VOC_BOX, 0), ("cat", VOC_WHOLE, 1)


def voc(root: Path) -> Path:
    """Two training images, one for validation, the last without an object."""
    base = root / "VOCdevkit/VOC2012"
    for name in ("a", "b", "c"):
        image(base / f"JPEGImages/{name}.jpg")
        voc_xml(base / f"Annotations/{name}.xml", *(OBJECTS if name != "c" else ()))
    text(base / "ImageSets/Main/train.txt", "a\nb\n")
    text(base / "ImageSets/Main/val.txt", "c\n")
    text(base / "ImageSets/Main/trainval.txt", "a\nb\nc\n")
    return root


def yolo(root: Path) -> Path:
    """The same dataset, without the distinction of difficult objects."""
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        image(root / f"images/{split}/{name}.jpg")
        if name != "c":
            text(root / f"labels/{split}/{name}.txt", f"{YOLO_BOX if name == 'a' else POLYGON}\n{YOLO_WHOLE}\n\n")
    text(root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("make", [voc, yolo])
def test_round_trip(make, tmp_path, capsys):
    """Boxes come out as they were thought of, and the jsons are found, clean and usable."""
    root = make(tmp_path)
    assert main([str(root)]) == 0
    train = read_coco(root / "annotations/instances_train.json", root)
    val = read_coco(root / "annotations/instances_val.json", root)
    assert [c["name"] for c in train["categories"]] == ["cat", "dog"]
    assert [a["bbox"] for a in train["annotations"]] == [BOX, WHOLE, BOX, WHOLE]
    assert [a["category_id"] for a in train["annotations"]] == [2, 1, 2, 1]
    assert [a["iscrowd"] for a in train["annotations"]] == ([0, 1, 0, 1] if make is voc else [0, 0, 0, 0])
    assert (len(val["images"]), val["annotations"]) == (1, [])
    assert not any(finding.is_error for finding in check(train, root))
    for split in ("train", "val"):
        assert class_names(custom_dataset(split, root)) == ["cat", "dog"]
    output = capsys.readouterr().out
    assert f"data.root={root}" in output
    assert "train: 2 images, 4 objects" in output
    assert "val: 1 images, 0 objects, 1 images without an object" in output


def _voc_beside_images(root):
    for folder in ("train", "valid"):
        image(root / folder / f"{folder}.jpg")
        voc_xml(root / folder / f"{folder}.xml", OBJECTS[0])


def _yolo_of_roboflow(root):
    for folder in ("train", "valid"):
        image(root / folder / f"images/{folder}.jpg")
        text(root / folder / f"labels/{folder}.txt", YOLO_BOX)
    text(root / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: [cat, dog]\n")


def _yolo_without_yaml(root):
    for split in ("train", "val"):
        image(root / f"images/{split}/{split}.jpg")
        text(root / f"labels/{split}/{split}.txt", YOLO_BOX)
    text(root / "classes.txt", "cat\ndog\n")


def _yolo_lists(root):
    for split in ("train", "val"):
        image(root / f"data/{split}.png")
        text(root / f"data/{split}.txt", YOLO_BOX)
        text(root / f"{split}.txt", f"data/{split}.png\n")
    text(root / "data.yaml", "train: train.txt\nval: [val.txt]\nnames: [cat, dog]\n")


@pytest.mark.parametrize("make", [_voc_beside_images, _yolo_of_roboflow, _yolo_without_yaml, _yolo_lists])
def test_other_layouts(make, tmp_path):
    make(tmp_path)
    assert main([str(tmp_path)]) == 0
    for split in ("train", "val"):
        coco = read_coco(tmp_path / f"annotations/instances_{split}.json", tmp_path)
        assert [a["bbox"] for a in coco["annotations"]] == [BOX]
        assert coco["categories"][coco["annotations"][0]["category_id"] - 1]["name"] == "dog"


def test_images_of_one_name_in_two_splits(tmp_path):
    for split in ("train", "val"):
        image(tmp_path / f"images/{split}/1.jpg")
        voc_xml(tmp_path / f"xml/{split}/1.xml", OBJECTS[0])
    assert main([str(tmp_path)]) == 0
    for split in ("train", "val"):
        (entry,) = json.loads((tmp_path / f"annotations/instances_{split}.json").read_text())["images"]
        assert entry["file_name"] == f"images/{split}/1.jpg"


def test_without_splits_some_are_held_out(tmp_path, capsys):
    for i in range(50):
        image(tmp_path / f"source/{i}.jpg")
        voc_xml(tmp_path / f"source/{i}.xml", OBJECTS[0])
    assert main([str(tmp_path / "source"), "--output", str(tmp_path / "out"), "--val", "0.4"]) == 0
    names = {}
    for split in ("train", "val"):
        coco = json.loads((tmp_path / f"out/instances_{split}.json").read_text())
        names[split] = {entry["file_name"] for entry in coco["images"]}
    assert names["train"] | names["val"] == {f"{i}.jpg" for i in range(50)}
    assert not names["train"] & names["val"]
    assert 10 <= len(names["val"]) <= 30
    output = capsys.readouterr().out
    assert "no validation split in the folder: 40%" in output
    assert f"data.val.json={tmp_path}/out/instances_val.json data.val.images={tmp_path}/source" in output


def test_sizes_are_read_where_the_xml_has_none(tmp_path):
    image(tmp_path / "train/a.jpg")
    voc_xml(tmp_path / "train/a.xml", OBJECTS[0], size=(0, 0))
    assert main([str(tmp_path)]) == 0
    (entry,) = json.loads((tmp_path / "annotations/instances_train.json").read_text())["images"]
    assert (entry["width"], entry["height"]) == (40, 20)


def _xml(content):
    return lambda root: text(root / "VOCdevkit/VOC2012/Annotations/b.xml", content)


def _label(line):
    return lambda root: text(root / "labels/train/b.txt", f"{YOLO_BOX}\n{line}\n")


MISTAKES = [
    (voc, _xml("<annotation>"), r"b\.xml is no XML file: .*line 1"),
    (voc, lambda root: (root / "VOCdevkit/VOC2012/JPEGImages/b.jpg").unlink(), r"b\.xml: its image b\.jpg is nowhere"),
    (voc, lambda root: voc_xml(root / "VOCdevkit/VOC2012/Annotations/b.xml", ("dog", (9, 4, 2, 13), 0)),
     r"b\.xml: object 1 \(dog\): the box \(9, 4, 2, 13\) ends before it begins"),
    (voc, lambda root: voc_xml(root / "VOCdevkit/VOC2012/Annotations/b.xml", OBJECTS[0], ("", VOC_BOX, 0)),
     r"b\.xml: object 2 has no <name>"),
    (voc, lambda root: voc_xml(root / "VOCdevkit/VOC2012/Annotations/b.xml", ("dog", ("x", 4, 2, 13), 0)),
     r"b\.xml: object 1 \(dog\): <xmin> in its <bndbox> is 'x', not a number"),
    (voc, _xml("<annotation><filename>b.jpg</filename><object><name>dog</name></object></annotation>"),
     "<xmin> in its <bndbox> is missing"),
    (voc, lambda root: text(root / "annotations/instances_train.json", ""), r"instances_train\.json is there already"),
    (yolo, _label("2 0.5 0.5 1 1"), r"labels/train/b\.txt:2: class 2, but there are 2 class names, 0 \(cat\) to 1"),
    (yolo, _label("-1 0.5 0.5 1 1"), "class -1"),
    (yolo, _label("0.5 0.5 0.5 1 1"), "class 0.5"),
    (yolo, _label("0 0.5 0.5 1"), r"b\.txt:2: 4 numbers; needed are 5"),
    (yolo, _label("0 20 10 40 20"), r"b\.txt:2: '0 20 10 40 20' has values outside 0\.\.1"),
    (yolo, _label("dog 0.5 0.5 1 1"), r"b\.txt:2: 'dog 0.5 0.5 1 1' is not all numbers"),
    (yolo, _label("0 nan 0.5 1 1"), "outside"),
    (yolo, lambda root: (root / "images/train/a.jpg").write_text("no image"), r"a\.jpg cannot be read"),
    (yolo, lambda root: text(root / "data.yaml", "train: nowhere\nnames: [cat, dog]"), r"data\.yaml: train: nowhere"),
    (yolo, lambda root: text(root / "data.yaml", "names: [cat"), r"data\.yaml is no YAML file: .*line 1"),
    (yolo, lambda root: text(root / "data.yaml", "names: {1: cat, 2: dog}"), "must be 0 to 1"),
    (yolo, lambda root: (root / "data.yaml").unlink(), "no class names. Add a data.yaml"),
    (lambda root: root, lambda root: None, "in none of the formats that are read: Pascal VOC .*YOLO"),
    (lambda root: root, lambda root: root.rmdir(), "there is no folder"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "damage", "message"), MISTAKES)
def test_mistakes_name_file_and_line(make, damage, message, tmp_path, capsys):
    import re

    root = tmp_path / "data"
    root.mkdir()
    damage(make(root))
    assert main([str(root)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert re.search(message, output.err.replace("\n", " ")), output.err
