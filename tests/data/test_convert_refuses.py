# SPDX-License-Identifier: Apache-2.0
"""Where a converter would have to guess, or be led astray, it refuses, or says what it left out."""

import json
import os
import re
import shlex
import shutil
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dino_d2.data.convert.__main__ import main
from dino_d2.data.convert.text import read_yaml
from dino_d2.errors import UserError
from tests.data.test_convert import OBJECTS, POLYGON, VOC_BOX, YOLO_BOX, image, text, voc, voc_xml, yolo

POSE = "0 0.5 0.5 0.2 0.2 0.45 0.45 0.55 0.45 0.55 0.55 0.45 0.55"
POSE_BOX = [16, 8, 8, 4]  # of an image of 40 x 20


def refused(root: Path, capsys, *options: str) -> str:
    """What is said; nothing has been written."""
    assert main([str(root), *options]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert not list(root.glob("annotations/*.json"))
    return said.err


def boxes(root: Path, split: str = "train") -> list:
    return [a["bbox"] for a in json.loads((root / f"annotations/instances_{split}.json").read_text())["annotations"]]


def file_names(root: Path, split: str) -> set[str]:
    coco = json.loads((root / f"annotations/instances_{split}.json").read_text())
    return {entry["file_name"] for entry in coco["images"]}


def flat_yolo(root: Path, count: int, names: str = "cat\ndog\n") -> Path:
    """A folder without splits."""
    for i in range(count):
        image(root / f"images/{i}.jpg")
        text(root / f"labels/{i}.txt", YOLO_BOX)
    text(root / "classes.txt", names)
    return root


def pose(root: Path, more: str = "") -> Path:
    for split in ("train", "val"):
        image(root / f"images/{split}/{split}.jpg")
        text(root / f"labels/{split}/{split}.txt", POSE)
    text(root / "data.yaml", f"train: images/train\nval: images/val\nnames: [cat]\n{more}")
    return root


def test_pose_rows_give_their_boxes(tmp_path):
    assert main([str(pose(tmp_path, "kpt_shape: [4, 2]\n"))]) == 0
    assert boxes(tmp_path) == [POSE_BOX]


def test_pose_rows_of_an_unknown_kind(tmp_path, capsys):
    said = refused(pose(tmp_path), capsys)
    assert re.search(r"train\.txt:1: 13 numbers may be a polygon, or a box with key points.*--long-rows", said)
    assert main([str(tmp_path), "--long-rows", "pose"]) == 0
    assert boxes(tmp_path) == [POSE_BOX]


def test_visibility_among_key_points(tmp_path, capsys):
    pose(tmp_path)
    for split in ("train", "val"):
        text(tmp_path / f"labels/{split}/{split}.txt", "0 0.5 0.5 0.2 0.2 0.45 0.45 1 0.55 0.55 1")
    assert "may be a polygon" in refused(tmp_path, capsys)


def test_pose_rows_of_another_length(tmp_path, capsys):
    said = refused(pose(tmp_path, "kpt_shape: [17, 3]\n"), capsys)
    assert "13 numbers; needed are 5 (class, x, y, width, height) or 56 with key points" in said


@pytest.mark.parametrize("shape", ["4", "[4]", "[4, 5]", "[-1, 2]", "[a, 2]", "[true, 2]", "[1.5, 2]"])
def test_a_kpt_shape_that_is_none(shape, tmp_path, capsys):
    assert "`kpt_shape`" in refused(pose(tmp_path, f"kpt_shape: {shape}\n"), capsys)


def test_polygons_are_still_polygons(tmp_path):
    assert main([str(yolo(tmp_path))]) == 0
    assert POLYGON in (tmp_path / "labels/train/b.txt").read_text()


def _outside(root):
    yolo(root.parent / "elsewhere")
    text(
        root / "data.yaml",
        f"path: {root.parent / 'elsewhere'}\ntrain: images/train\nval: images/val\nnames: [cat, dog]",
    )


def _list_outside(root):
    image(root.parent / "secret.jpg")
    text(root / "train.txt", "../secret.jpg\n")
    text(root / "data.yaml", "train: train.txt\nnames: [cat, dog]\n")


def _yaml(content):
    return lambda root: [yolo(root), text(root / "data.yaml", f"train: images/train\nval: images/val\n{content}\n")]


def _voc_lists(**lists):
    def make(root):
        voc(root)
        for name, content in lists.items():
            text(root / f"VOCdevkit/VOC2012/ImageSets/Main/{name}.txt", content)

    return make


def _two_images(root):
    flat_yolo(root, 3)
    image(root / "images/1.png")


def _both_formats(root):
    yolo(root)
    voc_xml(root / "images/train/a.xml", OBJECTS[0])


def _two_splits_in_a_path(root):
    flat_yolo(root, 1)
    image(root / "train/val/a.jpg")


def _two_name_files(root):
    flat_yolo(root, 2)
    text(root / "labels/classes.txt", "dog\ncat\n")


def _no_labels(root):
    yolo(root)
    (root / "labels").rename(root / "my labels")


def _which_image(root):
    for folder in ("one", "two"):
        image(root / f"{folder}/a.jpg")
    voc_xml(root / "xml/a.xml", OBJECTS[0])


def _voc_box(value):
    return lambda root: voc_xml(voc(root) / "VOCdevkit/VOC2012/Annotations/b.xml", ("dog", (value, 4, 15, 13), 0))


REFUSALS = {
    "data.yaml outside": (_outside, r"data\.yaml: train: images/train is .*elsewhere/images/train, outside"),
    "list outside": (_list_outside, r"train\.txt:1: \.\./secret\.jpg leads out of"),
    "path is no text": (_yaml("path: [1]\nnames: [cat, dog]"), "`path` must be a folder"),
    "entry is no text": (lambda r: [yolo(r), text(r / "data.yaml", "train: {a: 1}\nnames: [a, b]")], "not dict"),
    "class names alike": (lambda r: flat_yolo(r, 3, "cat\ncat\n"), "classes 0 and 1 are both called 'cat'"),
    "class names alike after reading": (_yaml("names: [1, '1']"), "classes 0 and 1 are both called '1'"),
    "name that YAML reads as a truth value": (_yaml("names: [cat, no]"), "name 1 is read as bool. Put it in quotes"),
    "name that YAML reads as a date": (_yaml("names: [cat, 2026-01-01]"), "name 1 is read as date"),
    "name that is missing": (_yaml("names: [cat, ]\nnc: 2"), "`nc` is 2, but there are 1 `names`"),
    "name that is nothing": (_yaml("names: [cat, null]"), "name 1 is read as NoneType"),
    "name that is empty": (_yaml("names: [cat, ' ']"), "the name of class 1 is ' '"),
    "names that are a number": (_yaml("names: 2"), "`names` must be a list"),
    "names with mixed numbers": (_yaml("names: {0: cat, one: dog}"), "must be 0 to 1"),
    "two files of names": (lambda r: [flat_yolo(r, 3), text(r / "a.yaml", "names: [a, b]"),
                                      text(r / "b.yaml", "names: [b, a]")], "both have class names"),
    "two lists of names": (_two_name_files, "have different class names"),
    "alias": (_yaml("names: &a [cat, dog]\nothers: *a"), r"data\.yaml:4: the alias \*a is not read"),
    "nested YAML": (_yaml("names: " + "[" * 5000), r"data\.yaml is no YAML file"),
    "Latin-1": (lambda r: [flat_yolo(r, 3), (r / "classes.txt").write_bytes(b"cat\nStra\xdfe\n")],
                r"classes\.txt:2: the text is not UTF-8"),
    "Latin-1 labels": (lambda r: [flat_yolo(r, 3), (r / "labels/1.txt").write_bytes(b"0 \xe9")],
                       r"1\.txt:1: the text is not UTF-8"),
    "one image": (lambda r: flat_yolo(r, 1), "only photograph"),
    "image in both splits": (lambda r: [yolo(r), text(r / "data.yaml",
                             "train: images/train\nval: images/train\nnames: [cat, dog]")], "is in train and in val"),
    "images that share labels": (_two_images, "share the labels"),
    "no labels at all": (_no_labels, "no other image has a label file either"),
    "two formats": (_both_formats, "Say which to read: --format"),
    "two splits in a path": (_two_splits_in_a_path, "speak of train and val"),
    "VOC lists that disagree": (_voc_lists(val="a\nc\n"), r"val\.txt:1: a is in val\.txt and in train\.txt"),
    "VOC lists of other images": (_voc_lists(train="x\n", val="y\n", trainval="z\n"), "none of them has an .xml file"),
    "VOC image of two": (_which_image, r"a\.xml: its image could be .*one/a\.jpg or .*two/a\.jpg"),
    "VOC box with NaN": (_voc_box("nan"), "<xmin> in its <bndbox> is 'nan', not a number"),
    "VOC box with infinity": (_voc_box("-inf"), "<xmin> in its <bndbox> is '-inf', not a number"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, tmp_path, capsys):
    make, message = REFUSALS[case]
    root = tmp_path / "data"
    root.mkdir()
    make(root)
    said = refused(root, capsys).replace("\n", " ")
    assert re.search(message, said), said


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan"])
def test_shares_that_are_none(share, tmp_path, capsys):
    assert "must be between 0 and 1" in refused(flat_yolo(tmp_path, 3), capsys, f"--val={share}")


def test_an_alias_bomb_is_refused_quickly(tmp_path):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
    )
    start = time.process_time()
    with pytest.raises(UserError, match="alias"):
        read_yaml(text(tmp_path / "data.yaml", bomb + "names: *a9\n"))
    assert time.process_time() - start < 1
    with pytest.raises(UserError, match="bytes"):
        read_yaml(text(tmp_path / "data.yaml", "names: [" + "x, " * 2**19 + "]"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(encoding, tmp_path):
    root = flat_yolo(tmp_path / "yolo", 3)
    (root / "classes.txt").write_text("Straße\ndog\n", encoding=encoding)
    (root / "labels/1.txt").write_text(YOLO_BOX, encoding=encoding)
    assert main([str(root)]) == 0
    (one, _) = json.loads((root / "annotations/instances_train.json").read_text())["categories"]
    assert one == {"id": 1, "name": "Straße"}
    root = voc(tmp_path / "voc")
    (root / "VOCdevkit/VOC2012/ImageSets/Main/train.txt").write_text("a\nb\n", encoding=encoding)
    assert main([str(root)]) == 0
    assert len(file_names(root, "train")) == 2


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_each_split_gets_an_image(count, tmp_path):
    root = flat_yolo(tmp_path, count)
    assert main([str(root)]) == 0
    train, val = (file_names(root, split) for split in ("train", "val"))
    assert train
    assert val
    assert len(train) + len(val) == count


def test_all_for_training_says_what_is_missing(tmp_path, capsys):
    assert main([str(flat_yolo(tmp_path, 3)), "--val", "0"]) == 0
    assert "val images are needed besides" in capsys.readouterr().out


def test_copies_of_a_photograph_stay_in_one_split(tmp_path):
    for photograph in range(20):
        for copy in range(3):
            name = f"{photograph}_jpg.rf.{photograph * 7919 + copy:08x}"
            image(tmp_path / f"images/{name}.jpg")
            text(tmp_path / f"labels/{name}.txt", YOLO_BOX)
    text(tmp_path / "classes.txt", "cat\ndog\n")
    assert main([str(tmp_path), "--val", "0.4"]) == 0
    train, val = (
        {Path(name).name.partition(".rf.")[0] for name in file_names(tmp_path, split)} for split in ("train", "val")
    )
    assert not train & val
    assert len(train) + len(val) == 20
    assert 3 <= len(val) <= 13


def test_voc_images_that_no_list_names_are_left_out(tmp_path, capsys):
    base = voc(tmp_path) / "VOCdevkit/VOC2012"
    for number in range(10):
        image(base / f"JPEGImages/unlisted{number}.jpg")
        voc_xml(base / f"Annotations/unlisted{number}.xml", OBJECTS[0])
    assert main([str(tmp_path)]) == 0
    assert not any("unlisted" in name for split in ("train", "val") for name in file_names(tmp_path, split))
    assert "10 images are left out" in capsys.readouterr().out


def test_yolo_images_in_no_folder_of_a_split_are_left_out(tmp_path, capsys):
    yolo(tmp_path)
    text(tmp_path / "data.yaml", "names: [cat, dog]\n")
    image(tmp_path / "images/preview.jpg")
    assert main([str(tmp_path)]) == 0
    assert len(file_names(tmp_path, "train")) == 2
    assert "1 images are left out" in capsys.readouterr().out


def test_names_in_lists_may_have_suffixes(tmp_path):
    _voc_lists(train="a.jpg\nb.xml\n")(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert len(file_names(tmp_path, "train")) == 2


def test_an_xml_that_names_a_file_outside_takes_the_one_inside(tmp_path):
    root = voc(tmp_path / "data")
    image(tmp_path / "secret.jpg")
    file = root / "VOCdevkit/VOC2012/Annotations/a.xml"
    file.write_text(file.read_text().replace("a.jpg", "../../../../secret.jpg"))
    assert main([str(root)]) == 0
    assert "VOCdevkit/VOC2012/JPEGImages/a.jpg" in file_names(root, "train")


def test_images_behind_a_link(tmp_path):
    root = yolo(tmp_path / "data")
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(root)
    assert main([str(root)]) == 0
    assert file_names(root, "train") == {"images/train/a.jpg", "images/train/b.jpg"}
    root = voc(tmp_path / "voc")
    base = root / "VOCdevkit/VOC2012"
    (base / "JPEGImages").rename(tmp_path / "pictures")
    (base / "JPEGImages").symlink_to(tmp_path / "pictures")
    assert main([str(root)]) == 0


@pytest.mark.parametrize("name", ["my data (1)", "it's", 'say "so"', "a,b=c", "$HOME", "Straße", "plain-1.0"])
@pytest.mark.parametrize("output", [True, False])
def test_the_printed_command_can_be_pasted(name, output, tmp_path, capsys):
    root = flat_yolo(tmp_path / name, 5)
    assert main([str(root), *(["--output", str(tmp_path / name / "out")] if output else [])]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    overrides = OverridesParser.create().parse_overrides([word for word in words if word.startswith("data.")])
    found = {override.key_or_group: override.value() for override in overrides}
    if output:
        assert found["data.val.json"] == str(root / "out/instances_val.json")
        assert found["data.val.images"] == str(root)
    else:
        assert found == {"data.root": str(root)}


def test_labels_are_looked_for_in_the_folder_alone(tmp_path, capsys):
    """Although the folder lies below another that is called images."""
    root = tmp_path / "images/mine"
    for i in range(3):
        image(root / f"{i}.jpg")
        text(tmp_path / f"labels/mine/{i}.txt", YOLO_BOX)
    text(root / "classes.txt", "cat\ndog\n")
    assert "no other image has a label file" in refused(root, capsys)


def test_difficult_boxes_count_as_crowds(tmp_path):
    root = voc(tmp_path)
    voc_xml(root / "VOCdevkit/VOC2012/Annotations/a.xml", ("dog", VOC_BOX, 1))
    assert main([str(root)]) == 0
    coco = json.loads((root / "annotations/instances_train.json").read_text())
    assert coco["annotations"][0]["iscrowd"] == 1


def _yolo_rows(row):
    def make(root):
        flat_yolo(root, 3)
        for i in range(3):
            text(root / f"labels/{i}.txt", row)

    return make


def _voc_of(box, size=(40, 20)):
    def make(root):
        for name in ("a", "b"):
            image(root / f"{name}.jpg")
            voc_xml(root / f"{name}.xml", ("dog", box, 0), size=size)

    return make


def _csv(*rows, header="filename,class,xmin,ymin,xmax,ymax"):
    def make(root):
        for name in ("a", "b"):
            image(root / f"{name}.jpg")
        text(root / "labels.csv", "\n".join([header, *rows]))

    return make


def _via(**shape):
    def make(root):
        image(root / "a.jpg")
        region = {"shape_attributes": shape, "region_attributes": {"class": "cat"}}
        text(root / "via.json", json.dumps({"a": {"filename": "a.jpg", "size": 1, "regions": [region]}}))

    return make


_SIZED = "filename,width,height,class,xmin,ymin,xmax,ymax"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(_yolo_rows("0 0.1 0.1 0.9 0.9"), "3 of 3 boxes leave their image", id="YOLO corners"),
        pytest.param(
            _yolo_rows("0 0.93 0.5 0.5 0.2 0.2"), "3 of 3 boxes leave their image", id="YOLO confidence first"
        ),
        pytest.param(_voc_of((0.1, 0.1, 0.5, 0.5)), "all boxes lie within the first pixel", id="VOC shares"),
        pytest.param(_voc_of(VOC_BOX, size=(20, 40)), "width and height are 20 and 40, but", id="VOC swapped size"),
        pytest.param(_csv("a.jpg,400,200,cat,10,20,100,120", header=_SIZED), "labels.csv:2: width", id="CSV size"),
        pytest.param(
            _csv("a.jpg,train,cat,1,2,9,9", "a.jpg,val,cat,1,2,9,9", header="filename,split,class,xmin,ymin,xmax,ymax"),
            "the rows of a.jpg name several splits",
            id="CSV splits",
        ),
        pytest.param(
            _csv("a.jpg,cat,bob,1,2,9,9", header="filename,class,class,xmin,ymin,xmax,ymax"),
            "is in none of the formats",
            id="CSV columns of one name",
        ),
        pytest.param(
            _via(name="polygon", all_points_x=[1, 2, 3], all_points_y=[1, 2]),
            "polygon without usable",
            id="VIA polygon",
        ),
    ],
)
def test_numbers_of_another_format_or_image_are_refused(make, words, tmp_path, capsys):
    make(tmp_path)
    assert words in refused(tmp_path, capsys)


def test_a_few_boxes_beyond_their_image_are_said(tmp_path, capsys):
    flat_yolo(tmp_path, 6)
    text(tmp_path / "labels/2.txt", "0 0.1 0.1 0.9 0.9")
    assert main([str(tmp_path)]) == 0
    assert "1 of 6 boxes leave their image by more than 10% of its side" in capsys.readouterr().out


def test_the_size_of_a_box_is_not_that_of_its_image(tmp_path):
    _csv("a.jpg,8,7,cat,1,2,9,9", "b.jpg,,,cat,1,2,9,9", header=_SIZED)(tmp_path)
    assert main([str(tmp_path), "--val", "0"]) == 0
    assert boxes(tmp_path) == [[1, 2, 8, 7]] * 2


def test_pixels_counted_from_0_in_voc(tmp_path, capsys):
    _voc_of((0, 0, 40, 20))(tmp_path)
    voc_xml(tmp_path / "b.xml", ("dog", (3, 4, 15, 13), 0))
    assert main([str(tmp_path), "--val", "0"]) == 0
    assert boxes(tmp_path) == [[0, 0, 40, 20], [3, 4, 12, 9]]
    assert "read as pixels counted from 0" in capsys.readouterr().out


def test_difficult_in_words(tmp_path):
    _voc_of(VOC_BOX)(tmp_path)
    for name, word in (("a", "True"), ("b", "0")):
        voc_xml(tmp_path / f"{name}.xml", ("dog", VOC_BOX, word))
    assert main([str(tmp_path), "--val", "0"]) == 0
    coco = json.loads((tmp_path / "annotations/instances_train.json").read_text())
    assert [a["iscrowd"] for a in coco["annotations"]] == [1, 0]


@pytest.mark.parametrize("copy", [shutil.copy, os.symlink])
def test_copies_of_training_images_in_the_validation_set_are_said(copy, tmp_path, capsys):
    yolo(tmp_path)
    copy(tmp_path / "images/train/a.jpg", tmp_path / "images/val/other.jpg")
    (tmp_path / "images/train/b.jpg").write_bytes((tmp_path / "images/train/b.jpg").read_bytes() + b" ")
    (tmp_path / "images/val/c.jpg").write_bytes((tmp_path / "images/val/c.jpg").read_bytes() + b"  ")
    assert main([str(tmp_path)]) == 0
    assert "1 validation images are copies of training images under another name" in capsys.readouterr().out
