# SPDX-License-Identifier: Apache-2.0
"""Objects365 in DINO's division, on generated data of the same layout, and class heads by name."""

import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from dino_d2.checkpoint.transfer import same_names, transfer_classes
from dino_d2.data.check import DatasetError
from dino_d2.data.objects365 import iterations, objects365, register
from dino_d2.data.table import cache as table_cache
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.utils.file_io import PathManager
from tests.processes import run_python


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three training and seven validation images; those of validation lie without the first parts of their names."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    root = tmp_path / "objects365"
    (root / "annotations").mkdir(parents=True)
    for split, count, version, kept in (("train", 3, 1, 4), ("val", 7, 2, 2)):
        images, annotations = [], []
        for i in range(count):
            name = f"images/v{version}/patch{i % 2}/objects365_v{version}_{i:08d}.jpg"
            path = root.joinpath(split, *name.split("/")[-kept:])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 24)).save(path)
            images.append({"id": 100 - i, "file_name": name, "width": 32, "height": 24})
            box = {"bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0, "category_id": 1 + i % 2}
            annotations.append({"id": i + 1, "image_id": 100 - i, **box})
        categories = [{"id": 1, "name": "Person"}, {"id": 2, "name": "Sneakers"}]
        coco = {"images": images, "annotations": annotations[::-1], "categories": categories}
        (root / "annotations" / f"zhiyuan_objv2_{split}.json").write_text(json.dumps(coco))
    return root


def test_the_first_validation_images_validate_and_the_others_train(root):
    train, val, rest = (objects365(split, validation_images=5) for split in ("train", "val", "val_rest"))
    counts = [len(DatasetCatalog.get(name)) for name in (train, val, rest)]
    assert counts == [3, 5, 2]
    assert [x["image_id"] for x in DatasetCatalog.get(val)] == [96, 97, 98, 99, 100]  # Detectron2 sorts by id
    for name in (train, val, rest):
        for image in DatasetCatalog.get(name):
            assert Path(image["file_name"]).is_file()
            assert len(image["annotations"]) == 1
        assert MetadataCatalog.get(name).thing_classes == ["Person", "Sneakers"]
    assert iterations(26, [train, rest], batch_size=4) == math.ceil(26 * 5 / 4)
    with pytest.raises(ValueError, match="Unknown split"):
        objects365("test")


def test_large_jsons_give_the_same_images(root, monkeypatch):
    def registered() -> list[str]:
        register.cache_clear()
        return [objects365(split, validation_images=5) for split in ("train", "val", "val_rest")]

    small = registered()
    monkeypatch.setattr(table_cache, "LARGE_JSON", 0)
    large = registered()
    assert [list(DatasetCatalog.get(name)) for name in large] == [list(DatasetCatalog.get(name)) for name in small]
    assert [MetadataCatalog.get(name).num_images for name in large] == [3, 5, 2]
    for of_large, of_small in zip(large, small, strict=True):
        path = PathManager.get_local_path(MetadataCatalog.get(of_large).json_file)
        evaluated, expected = (json.loads(Path(p).read_text()) for p in (path, MetadataCatalog.get(of_small).json_file))
        for key in ("images", "annotations"):
            assert sorted(evaluated[key], key=lambda x: x["id"]) == sorted(expected[key], key=lambda x: x["id"])


def test_what_is_missing_is_named(root):
    with pytest.raises(DatasetError, match=r"zhiyuan_objv2_train\.json"):
        objects365("train", root.parent / "elsewhere")
    for path in sorted((root / "val").rglob("*.jpg")):
        path.unlink()
    with pytest.raises(DatasetError, match=r"objects365_v2_00000000\.jpg is not under"):
        objects365("val")


def test_images_that_nobody_can_use_are_left_out(root):
    json_file = root / "annotations" / "zhiyuan_objv2_train.json"
    coco = json.loads(json_file.read_text())
    coco["images"][1]["file_name"] = "images/v2/patch16/objects365_v2_00908726.jpg"  # not in the archives
    json_file.write_text(json.dumps(coco))
    train = DatasetCatalog.get(objects365("train"))
    assert [x["image_id"] for x in train] == [98, 100]
    assert [len(x["annotations"]) for x in train] == [1, 1]


def test_a_split_is_read_once(root, monkeypatch):
    names = [objects365(split) for split in ("train", "val")]
    monkeypatch.setattr("dino_d2.data.objects365.parse", lambda *_: pytest.fail("read again"))
    assert [objects365(split) for split in ("train", "val")] == names


#: COCO classes that version 2 of the published jsons has under another name, and what else is like them there.
OTHER_NAMES = {
    "bird": "Wild Bird",
    "handbag": "Handbag/Satchel",
    "suitcase": "Luggage",
    "skis": "Skiboard",
    "sports ball": "Other Balls",
    "bowl": "Bowl/Basin",
    "orange": "Orange/Tangerine",
    "dining table": "Dinning Table",
    "tv": "Moniter/TV",
    "teddy bear": "Stuffed Toy",
    "hair drier": "Hair Dryer",
}
ALIKE = [
    "Baseball",
    "Briefcase",
    "Tablet",
    "Pot",
    "Glasses",
    "Tennis",
    "SUV",
    "Telephone",
    "Parrot",
    "Chicken",
    "Mirror",
    "Brush",
    "Sailboat",
    "Fan",
    "Stool",
    "Coffee-Table",
    "Side-Table",
    "Bow-Tie",
    "Skating-and-Skiing-shoes",
    "Wallet/Purse",
    "Table-Tennis",
]


def test_every_class_of_coco_has_its_counterpart_in_objects365():
    coco = MetadataCatalog.get("coco_2017_val").thing_classes
    assert len(coco) == 80
    assert OTHER_NAMES.keys() <= set(coco)
    published = [name.replace("-", " ") for name in ALIKE] + [OTHER_NAMES.get(name, name.title()) for name in coco]
    assert same_names(published, coco) == list(range(len(ALIKE), len(ALIKE) + 80))


def test_classes_are_found_by_name():
    sources = [
        "Person",
        "Wild Bird",
        "Handbag/Satchel",
        "Monitor/TV",
        "Other Balls",
        "Dinning Table",
        "Orange/Tangerine",
    ]
    targets = ["person", "bird", "handbag", "tv", "sports ball", "dining table", "orange", "toaster"]
    assert same_names(sources, targets) == [0, 1, 2, 3, 4, 5, 6, None]
    assert same_names(["Bowl/Basin", "bowl"], ["bowl"]) == [1]  # a whole name comes first
    assert same_names(["Dining Table", "Dinning Table"], ["dining table"]) == [0]


def checkpoint(classes: int) -> dict[str, torch.Tensor]:
    return {
        "detector.decoder.class_head.weight": torch.randn(classes, 8),
        "detector.decoder.class_head.bias": torch.randn(classes),
        "detector.queries.proposal_head.class_head.bias": torch.randn(classes),
        "detector.label_embedding.weight": torch.randn(classes, 8),
        "detector.decoder.norm.weight": torch.randn(8),
    }


def test_rows_go_with_their_names_and_new_classes_start_fresh():
    tensors = checkpoint(3)
    moved = transfer_classes(tensors, ["Car", "Person", "Boat"], ["person", "toaster", "car"])
    head, bias, embedding = (moved[f"detector.{n}"] for n in ("decoder.class_head.weight", "decoder.class_head.bias",
                                                              "label_embedding.weight"))  # fmt: skip
    assert torch.equal(head[[0, 2]], tensors["detector.decoder.class_head.weight"][[1, 0]])
    assert head[1].abs().max() == 0
    assert torch.equal(bias[[0, 2]], tensors["detector.decoder.class_head.bias"][[1, 0]])
    assert torch.sigmoid(bias[1]).item() == pytest.approx(0.01)
    assert torch.allclose(embedding[1], tensors["detector.label_embedding.weight"].mean(0))
    assert moved["detector.queries.proposal_head.class_head.bias"].shape == (3,)
    assert moved["detector.decoder.norm.weight"] is tensors["detector.decoder.norm.weight"]
    unknown = {**tensors, "detector.label_embedding.weight": torch.randn(4, 8)}  # DN-DETR's has a row for it
    rows = transfer_classes(unknown, ["Car", "Person", "Boat"], ["person", "car"])["detector.label_embedding.weight"]
    assert torch.equal(rows, unknown["detector.label_embedding.weight"][[1, 0, 3]])
    with pytest.raises(ValueError, match="3 classes, but 2 names"):
        transfer_classes(tensors, ["a", "b"], ["a"])


def test_the_command_writes_a_checkpoint_with_cocos_classes(tmp_path):
    named = [{"id": i, "name": name} for i, name in enumerate(["Person", "Sneakers", "Luggage"])]
    torch.save({"model": checkpoint(3), "categories": named}, tmp_path / "o365.pth")
    run = run_python("-m", "dino_d2.checkpoint.transfer", tmp_path / "o365.pth", tmp_path / "c.pth")
    assert run.returncode == 0, run.stderr
    assert "2 of 80 classes taken over by name" in run.stdout
    written = torch.load(tmp_path / "c.pth", weights_only=True)
    assert len(written["categories"]) == 80
    assert written["model"]["detector.decoder.class_head.bias"].shape == (80,)
