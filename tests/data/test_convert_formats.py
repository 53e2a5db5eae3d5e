# SPDX-License-Identifier: Apache-2.0
"""LabelMe, CVAT, VIA, CSV and undivided COCO folders to COCO jsons: boxes worked out by hand, and what is refused."""

import json
import math
import re
from pathlib import Path

import pytest

from dino_d2.data.check import check, read_coco
from dino_d2.data.convert.__main__ import main
from tests.data.test_convert import BOX, WHOLE, YOLO_BOX, image, text, voc_xml

LEFT, TOP, RIGHT, BOTTOM = BOX[0], BOX[1], BOX[0] + BOX[2], BOX[1] + BOX[3]


def labelme_json(path: Path, *shapes: tuple, **changes) -> Path:
    shapes = [{"label": name, "shape_type": kind, "points": points} for name, kind, points in shapes]
    content = {
        "version": "5.5.0",
        "shapes": shapes,
        "imagePath": f"{path.stem}.jpg",
        "imageHeight": 20,
        "imageWidth": 40,
    }
    return text(path, json.dumps({**content, **changes}))


DOG = ("dog", "rectangle", [[LEFT, TOP], [RIGHT, BOTTOM]])
CAT = ("cat", "polygon", [[0, 0], [40, 0], [40, 20], [0, 20]])


def labelme(root: Path) -> Path:
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        image(root / split / f"{name}.jpg")
        labelme_json(root / split / f"{name}.json", *((DOG, CAT) if name != "c" else ()))
    return root


def cvat_xml(path: Path, content: str) -> Path:
    return text(path, f'<?xml version="1.0" encoding="utf-8"?><annotations><meta/>{content}</annotations>')


def cvat_image(name: str, *objects: str, subset: str = "", size: tuple[int, int] = (40, 20)) -> str:
    of_subset = f' subset="{subset}"' if subset else ""
    return f'<image id="0" name="{name}"{of_subset} width="{size[0]}" height="{size[1]}">{"".join(objects)}</image>'


CVAT_DOG = f'<box label="dog" xtl="{LEFT}" ytl="{TOP}" xbr="{RIGHT}" ybr="{BOTTOM}" occluded="0"/>'
CVAT_CAT = '<polygon label="cat" points="0,0;40,0;40,20;0,20"/>'


def cvat(root: Path) -> Path:
    for name in ("a", "b", "c"):
        image(root / f"images/{name}.jpg")
    images = [cvat_image(f"{name}.jpg", CVAT_DOG, CVAT_CAT, subset="Train") for name in ("a", "b")]
    cvat_xml(root / "annotations.xml", "".join([*images, cvat_image("c.jpg", subset="Validation")]))
    return root


def via_region(animal: str | None, /, **shape) -> dict:
    return {"shape_attributes": shape, "region_attributes": {} if animal is None else {"animal": animal}}


VIA_DOG = via_region("dog", name="rect", x=LEFT, y=TOP, width=BOX[2], height=BOX[3])
VIA_CAT = via_region("cat", name="polygon", all_points_x=[0, 40, 40, 0], all_points_y=[0, 0, 20, 20])


def via_json(path: Path, images: dict[str, list[dict]]) -> Path:
    entries = {f"{name}123": {"filename": name, "size": 123, "regions": regions} for name, regions in images.items()}
    return text(path, json.dumps({"_via_settings": {}, "_via_img_metadata": entries}))


def via(root: Path) -> Path:
    for name in ("a", "b", "c"):
        image(root / f"{name}.jpg")
    via_json(root / "via_train.json", {"a.jpg": [VIA_DOG, VIA_CAT], "b.jpg": [VIA_DOG, VIA_CAT]})
    via_json(root / "via_val.json", {"c.jpg": []})
    return root


def csv_table(root: Path) -> Path:
    for name in ("a", "b", "c"):
        image(root / f"{name}.jpg")
    header = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    rows = [
        f"{name}.jpg,40,20,{row}\n"
        for name in ("a", "b")
        for row in (f"dog,{LEFT},{TOP},{RIGHT},{BOTTOM}", "cat,0,0,40,20")
    ]
    text(root / "train.csv", header + "".join(rows))
    text(root / "val.csv", header + "c.jpg,40,20,,,,,\n")
    return root


def converted(root: Path, split: str) -> dict:
    """The json of a split, checked; it must be fit for training."""
    coco = read_coco(root / f"annotations/instances_{split}.json", root)
    assert not any(finding.is_error for finding in check(coco, root))
    return coco


def boxes_of(root: Path, split: str = "train") -> list[list[float]]:
    return [annotation["bbox"] for annotation in converted(root, split)["annotations"]]


@pytest.mark.parametrize("make", [labelme, cvat, via, csv_table])
def test_round_trip(make, tmp_path, capsys):
    root = make(tmp_path / "my data")
    assert main([str(root)]) == 0, capsys.readouterr().err
    train = converted(root, "train")
    val = read_coco(root / "annotations/instances_val.json", root)  # without an object, which the check reports
    assert [category["name"] for category in train["categories"]] == ["cat", "dog"]
    assert [annotation["bbox"] for annotation in train["annotations"]] == [BOX, WHOLE, BOX, WHOLE]
    assert [annotation["category_id"] for annotation in train["annotations"]] == [2, 1, 2, 1]
    assert (len(train["images"]), len(val["images"]), val["annotations"]) == (2, 1, [])


def test_shapes_of_labelme(tmp_path):
    image(tmp_path / "a.jpg")
    circle = ("dog", "circle", [[20, 10], [23, 14]])
    labelme_json(tmp_path / "a.json", circle, ("dog", "line", [[0, 0], [5, 5]]), ("dog", "mask", [[1, 2], [5, 8]]))
    assert main([str(tmp_path), "--val", "0"]) == 0
    assert boxes_of(tmp_path) == [[15, 5, 10, 10], [1, 2, 4, 6]]


def test_shapes_of_cvat(tmp_path, capsys):
    image(tmp_path / "a.jpg")
    turned = '<box label="dog" xtl="10" ytl="5" xbr="20" ybr="15" rotation="45"/>'
    ellipse = '<ellipse label="dog" cx="20" cy="10" rx="4" ry="2" rotation="90"/>'
    mask = '<mask label="dog" rle="1, 2" left="3" top="4" width="5" height="6"/>'
    cvat_xml(tmp_path / "a.xml", cvat_image("a.jpg", turned, ellipse, mask, '<points label="dog" points="1,2"/>'))
    assert main([str(tmp_path), "--val", "0"]) == 0
    half = 5 * math.sqrt(2)
    turned_box = [round(value, 2) for value in (15 - half, 10 - half, 2 * half, 2 * half)]
    assert boxes_of(tmp_path) == [turned_box, [18, 6, 4, 8], [3, 4, 5, 6]]
    assert "left out: 1 points, lines and tags" in capsys.readouterr().out


def test_shapes_of_via(tmp_path):
    image(tmp_path / "a.jpg")
    circle = via_region("dog", name="circle", cx=20, cy=10, r=5)
    ellipse = via_region("dog", name="ellipse", cx=20, cy=10, rx=4, ry=2, theta=math.pi / 2)
    regions = {"0": circle, "1": ellipse, "2": via_region("dog", name="point", cx=1, cy=1)}  # VIA 1 numbers them
    text(tmp_path / "via.json", json.dumps({"a.jpg1": {"filename": "a.jpg", "regions": regions}}))
    assert main([str(tmp_path), "--val", "0"]) == 0
    assert boxes_of(tmp_path) == [[15, 5, 10, 10], [18, 6, 4, 8]]


def test_a_table_without_header_and_with_shares(tmp_path, capsys):
    for name in ("a", "b"):
        image(tmp_path / f"{name}.jpg")
    text(tmp_path / "one.csv", f"a.jpg,{LEFT},{TOP},{RIGHT},{BOTTOM},dog\n")
    text(tmp_path / "two.csv", "ImageID;LabelName;XMin;XMax;YMin;YMax;Split\nb;dog;0.125;0.375;0.15;0.65;validation\n")
    assert main([str(tmp_path)]) == 0
    assert converted(tmp_path, "val")["annotations"][0]["bbox"] == BOX
    assert "corners are read as shares of the image" in capsys.readouterr().out


def coco(root: Path, name: str = "annotations.json", count: int = 20) -> dict:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 20} for i in range(1, count + 1)]
    annotations = [
        {
            "id": i,
            "image_id": i,
            "category_id": 7,
            "bbox": BOX,
            "area": 55,
            "iscrowd": 0,
            "segmentation": [[5, 3, 15, 3, 15, 13]],
        }
        for i in range(1, count + 1)
    ]
    for entry in images:
        image(root / "images" / entry["file_name"])
    content = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "dog"}]}
    text(root / name, json.dumps(content))
    return content


def test_an_undivided_coco_json_is_divided_with_its_masks(tmp_path, capsys):
    coco(tmp_path)
    assert main([str(tmp_path)]) == 0
    train, val = converted(tmp_path, "train"), converted(tmp_path, "val")
    names = [[entry["file_name"] for entry in part["images"]] for part in (train, val)]
    assert sorted(names[0] + names[1]) == sorted(f"images/{i}.jpg" for i in range(1, 21))
    written = json.loads((tmp_path / "annotations/instances_train.json").read_text())["annotations"][0]
    assert (written["segmentation"], written["area"], written["bbox"]) == ([[5, 3, 15, 3, 15, 13]], 55, BOX)
    assert "no validation split in the folder: 20%" in capsys.readouterr().out


def test_divided_coco_needs_no_conversion(tmp_path, capsys):
    coco(tmp_path, "annotations/instances_train.json", 2)
    coco(tmp_path, "annotations/instances_val.json", 1)
    assert main([str(tmp_path)]) == 1
    assert f"need no conversion. Train with data.root={tmp_path}" in capsys.readouterr().err


def test_validation_images_are_held_out_of_a_training_split(tmp_path, capsys):
    for number in range(20):
        image(tmp_path / f"train/{number}.jpg")
        labelme_json(tmp_path / f"train/{number}.json", DOG)
    assert main([str(tmp_path)]) == 0
    assert "no validation split in the folder: 20%" in capsys.readouterr().out
    assert len(converted(tmp_path, "train")["images"]) + len(converted(tmp_path, "val")["images"]) == 20


def test_stray_files_are_counted_and_named(tmp_path, capsys):
    image(tmp_path / "a.jpg")
    image(tmp_path / "b.jpg")
    voc_xml(tmp_path / "a.xml", ("dog", (1, 1, 5, 5), 0))
    text(tmp_path / ".idea/workspace.xml", "<project/>")
    text(tmp_path / "._a.xml", "resource fork")
    assert main([str(tmp_path), "--val", "0"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"left out: 1 XML files that hold no <annotation>; the first is .*workspace\.xml", said)
    assert re.search(r"left out: 1 images that no label file names; the first is .*b\.jpg", said)


@pytest.mark.parametrize("encoding", ["gbk", "iso-8859-1", "utf-16"])
def test_xml_with_a_doctype_and_in_its_own_encoding(encoding, tmp_path):
    image(tmp_path / "a.jpg")
    name = "狗" if encoding == "gbk" else "Straße"
    content = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n<!DOCTYPE annotation>\n<annotation><object><name>{name}</name>'
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object></annotation>"
    )
    (tmp_path / "a.xml").write_bytes(content.encode(encoding))
    assert main([str(tmp_path), "--val", "0"]) == 0
    assert converted(tmp_path, "train")["categories"][0]["name"] == name


@pytest.mark.parametrize(
    ("images", "labels"),
    [("JPEGImages", "labels"), ("Images", "Labels"), ("images/train", "labels/train"), (".", ".")],
)
@pytest.mark.parametrize("suffix", [".txt", ".TXT"])
def test_labels_of_darknet_in_large_and_small_letters(images, labels, suffix, tmp_path, capsys):
    image(tmp_path / images / "a.JPG")
    text(tmp_path / labels / f"a{suffix}", YOLO_BOX)
    text(tmp_path / "labels/orphan.txt", YOLO_BOX)
    image(tmp_path / images / "empty.jpg")
    text(tmp_path / "classes.txt", "cat\ndog\n")
    assert main([str(tmp_path), "--val", "0"]) == 0, capsys.readouterr().err
    assert boxes_of(tmp_path) == [BOX]
    said = capsys.readouterr().out
    assert re.search(r"left out: 1 label files without an image; the first is .*orphan\.txt", said)
    assert re.search(r"1 images have no label file and so no objects; the first is .*empty\.jpg", said)


@pytest.mark.parametrize("line", ["../data/a.jpg", "data\\a.jpg", "data/a.jpg", "./a.jpg"])
def test_lists_of_darknet(line, tmp_path, capsys):
    for name, content in (("a", line), ("b", "data/b.jpg")):
        image(tmp_path / f"data/{name}.jpg")
        text(tmp_path / f"data/{name}.txt", YOLO_BOX)
        text(tmp_path / f"data/list_{name}.txt", content + "\n")
    text(
        tmp_path / "data/obj.data",
        "classes = 2\ntrain = data/list_a.txt\nvalid = data/list_b.txt\nnames = data/my.names\n",
    )
    text(tmp_path / "data/my.names", "cat\ndog\n")
    assert main([str(tmp_path)]) == 0, capsys.readouterr().err
    assert [entry["file_name"] for entry in converted(tmp_path, "train")["images"]] == ["data/a.jpg"]
    assert boxes_of(tmp_path, "val") == [BOX]


def test_a_sixth_number_is_a_confidence(tmp_path, capsys):
    image(tmp_path / "images/a.jpg")
    text(tmp_path / "labels/a.txt", f"{YOLO_BOX} 0.87\n")
    text(tmp_path / "classes.txt", "cat\ndog\n")
    assert main([str(tmp_path), "--val", "0"]) == 0
    assert boxes_of(tmp_path) == [BOX]
    assert "1 rows have six numbers; the last is taken for a confidence" in capsys.readouterr().out


def _labelme(*shapes, **changes):
    return lambda root: [image(root / "a.jpg"), labelme_json(root / "a.json", *shapes, **changes)]


def _cvat(content):
    return lambda root: [image(root / "a.jpg"), cvat_xml(root / "a.xml", content)]


def _via(*regions):
    return lambda root: [image(root / "a.jpg"), via_json(root / "a.json", {"a.jpg": list(regions)})]


def _csv(rows):
    return lambda root: [image(root / "a.jpg"), text(root / "a.csv", "image,label,x1,y1,x2,y2\n" + rows)]


REFUSALS = {
    "LabelMe without a label": (_labelme(("", *DOG[1:])), r"a\.json: shape 1 has no label"),
    "LabelMe points": (_labelme(DOG, ("dog", "polygon", [[1], 2])), r"shape 2 \(dog\): its points are not pairs"),
    "LabelMe kind": (_labelme(("dog", "cube", [[1, 2], [3, 4]])), r"a cube of 2 points has no box"),
    "LabelMe size": (_labelme(DOG, imageWidth=41), r"width and height are 41 and 20, but .* has 40 x 20"),
    "LabelMe image": (lambda r: [labelme_json(r / f"{n}.json", DOG) for n in "xy"],
                      r"nowhere in the folder.* There are 2"),
    "CVAT video": (_cvat('<track id="0" label="dog"/>'), "has tracks of a video"),
    "CVAT kind": (_cvat(cvat_image("a.jpg", '<cuboid label="dog"/>')), r"object 1 \(dog\) is a <cuboid>"),
    "CVAT number": (_cvat(cvat_image("a.jpg", CVAT_DOG, CVAT_DOG.replace(f'"{LEFT}"', '"nan"'))),
                    r"object 2 \(dog\): 'nan'"),
    "CVAT attribute": (_cvat(cvat_image("a.jpg", '<box label="dog"/>')), "<box> has no xtl"),
    "CVAT points": (_cvat(cvat_image("a.jpg", '<polygon label="dog" points="1,2;3"/>')), r"object 1 \(dog\)"),
    "CVAT size": (_cvat(cvat_image("a.jpg", CVAT_DOG, size=(20, 40))), "width and height are 20 and 40, but"),
    "CVAT image": (_cvat(cvat_image("z.jpg", CVAT_DOG)), r"a\.xml: image z\.jpg: its image z\.jpg is nowhere"),
    "VIA without a class": (_via(VIA_DOG, via_region(None, name="rect")),
                            "region 2 has no class in its attribute animal"),
    "VIA number": (_via(via_region("dog", name="rect", x=1, y=2, width="w", height=2)), "rect without usable numbers"),
    "VIA attributes": (
        _via({**VIA_DOG, "region_attributes": {"colour": "red", "size": "big"}}),
        "regions have the attributes colour, size. Which is the class",
    ),
    "CSV width and height": (_csv("a.jpg,dog,30,10,8,5\n"),
                             r"a\.csv:2: the box \(30, 10, 8, 5\) ends before it begins"),
    "CSV number": (_csv("a.jpg,dog,1,2,3,x\n"), r"a\.csv:2: corners must be numbers"),
    "CSV row": (_csv("a.jpg,dog\n"), r"a\.csv:2: 2 columns; needed are 6"),
    "CSV class": (_csv("a.jpg,,1,2,3,4\n"), r"a\.csv:2: the row has no class"),
    "CSV image": (_csv("a.jpg,dog,1,2,3,4\nb.jpg,dog,1,2,3,4\n"), r"a\.csv:3: its image b\.jpg is nowhere"),
    "no object": (_labelme(), "has no object in any image"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case, tmp_path, capsys):
    make, message = REFUSALS[case]
    make(tmp_path)
    assert main([str(tmp_path), "--val", "0"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(message, said.err.replace("\n", " ")), said.err
    assert not (tmp_path / "annotations").exists()


@pytest.mark.parametrize("format_name", ["voc", "yolo", "labelme", "cvat", "via", "csv", "coco"])
def test_a_format_that_is_not_there_is_refused(format_name, tmp_path, capsys):
    image(tmp_path / "a.jpg")
    assert main([str(tmp_path), "--format", format_name]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "annotations").exists()


def test_long_rows_are_yolo_alone(tmp_path, capsys):
    labelme(tmp_path)
    assert main([str(tmp_path), "--long-rows", "pose"]) == 1
    assert "--long-rows is for YOLO" in capsys.readouterr().err


def test_a_share_in_percent_is_explained(tmp_path, capsys):
    coco(tmp_path)
    assert main([str(tmp_path), "--val", "20"]) == 1
    assert "--val 20: the share that is held out must be between 0 and 1; 20 % are 0.2" in capsys.readouterr().err
