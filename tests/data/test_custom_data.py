# SPDX-License-Identifier: Apache-2.0
"""A dataset of one's own: found in its folder, classes and epochs counted, heads made for it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import class_names, iterations
from dino_d2.data.folders import custom_dataset, find_images, find_json
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.engine import DefaultPredictor
from dino_d2.predict import predictor_cfg
from tests.in_process import run_train_net
from tests.paths import CONFIGS

RECIPE = str(CONFIGS / "dino/dino_r50_4scale_custom.py")
#: The recipe's own model, as small as it gets.
SMALL = [
    "model.detector.embed_dim=32",
    "model.detector.backbone={name: resnet10t, pretrained: false, options: {channels: [8, 8, 8, 8]}}",
    "model.detector.neck.in_channels={res3: 8, res4: 8, res5: 8}",
    "model.detector.encoder={num_layers: 1, feedforward_dim: 32}",
    "model.detector.decoder={num_layers: 1, feedforward_dim: 32}",
    "model.detector.queries.num_queries=20",
    "model.denoising.groups.num_objects=5",
    "dataloader.train.mapper.augmentations={short_edge_lengths: [64], crop_short_edge_lengths: [64]}",
    "dataloader.train.mapper.augmentations.crop_size=[32, 48]",
    "dataloader.test.mapper.augmentations.short_edge_length=64",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
]


def write_split(json_file: Path, images: Path, count: int, prefix: str = "", categories=((17, "cat"), (4, "dog"))):
    """A json and its images, each image with one box; ``prefix`` is a folder within the file names."""
    json_file.parent.mkdir(parents=True, exist_ok=True)
    (images / prefix).mkdir(parents=True, exist_ok=True)
    names = [os.path.join(prefix, f"{json_file.parent.name}_{i}.png") for i in range(count)]
    for name in names:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)).save(images / name)
    coco = {
        "images": [{"id": i + 5, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(names)],
        "categories": [{"id": i, "name": name} for i, name in categories],
        "annotations": [
            {"id": i + 1, "image_id": i + 5, "category_id": categories[i % len(categories)][0], "bbox": [5, 5, 30, 20]}
            for i in range(count)
        ],
    }
    json_file.write_text(json.dumps(coco))


def roboflow(root: Path, train: int = 6, val: int = 2) -> Path:
    for folder, count in (("train", train), ("valid", val)):
        write_split(root / folder / "_annotations.coco.json", root / folder, count)
    return root


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


LAYOUTS = {  # json and image folder of each split, and what stands before the file names
    "Roboflow": [("train/_annotations.coco.json", "train", ""), ("valid/_annotations.coco.json", "valid", "")],
    "COCO": [
        ("annotations/instances_train2017.json", "train2017", ""),
        ("annotations/instances_val2017.json", "val2017", ""),
    ],
    "images below images": [
        ("annotations/train.json", "images/train", ""),
        ("annotations/validation.json", "images/val", ""),
    ],
    "one folder of images": [("train.json", "images", ""), ("val.json", "images", "")],
    "file names with their folder": [
        ("annotations/instances_train.json", ".", "images/train"),
        ("annotations/instances_val.json", ".", "images/val"),
    ],
    "images beside the json": [("train/labels.json", "train/images", ""), ("val/labels.json", "val/images", "")],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_found(layout, tmp_path):
    for json_file, images, prefix in LAYOUTS[layout]:
        write_split(tmp_path / json_file, tmp_path / images, 2, prefix)
    for split, (json_file, images, _) in zip(("train", "val"), LAYOUTS[layout], strict=True):
        found = find_json(tmp_path, split)
        assert found == tmp_path / json_file
        assert find_images(found, tmp_path, split).resolve() == (tmp_path / images).resolve()
        assert class_names(custom_dataset(split, tmp_path)) == ["dog", "cat"]


def test_one_path_given_the_other_found(tmp_path):
    root = roboflow(tmp_path)
    other = tmp_path / "other.json"
    other.write_text((root / "train/_annotations.coco.json").read_text())
    assert custom_dataset("train", root, json=other).startswith("coco_other_")
    assert custom_dataset("train", json=root / "train/_annotations.coco.json") == custom_dataset("train", root)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, r"no train annotations.*the folder has nothing"),
        (lambda root: (root / "notes.txt").touch(), r"the folder has notes\.txt.*data\.train\.json=FILE"),
        (lambda root: (root / "1.xml").touch(), r"Pascal VOC or YOLO.*python -m dino_d2\.data\.convert"),
        (lambda root: (root / "data.yaml").touch(), "Pascal VOC or YOLO"),
        (lambda root: (root / "labels").mkdir(), "Pascal VOC or YOLO"),
        (lambda root: [(root / f"train{i}.json").touch() for i in (1, 2)], r"train1\.json, train2\.json could each be"),
        (lambda root: (root / "train.json").write_text('{"images": [{"file_name": "a"}]}'), "a, is in none of"),
    ],
)
def test_nothing_found(make, message, tmp_path):
    make(tmp_path)
    with pytest.raises(DatasetError, match=message):
        custom_dataset("train", tmp_path)


def test_nothing_given(tmp_path):
    with pytest.raises(DatasetError, match=r"No val dataset is given\. Add data\.root=FOLDER"):
        custom_dataset("val")
    with pytest.raises(DatasetError, match=r"data\.root=.*nowhere: there is no such folder"):
        custom_dataset("val", tmp_path / "nowhere")


def test_epochs_become_iterations(tmp_path):
    name = custom_dataset("train", roboflow(tmp_path, train=7))
    assert iterations(1, name, batch_size=2) == 4
    assert iterations(10, name, batch_size=2, accumulate=5) == 7
    assert iterations(0.01, name, batch_size=2) == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(dataset, output folder) of an epoch of two iterations, from a checkpoint of 5 classes."""
    root = roboflow(tmp_path_factory.mktemp("data"))
    folder = tmp_path_factory.mktemp("run")
    cfg = LazyConfig.apply_overrides(LazyConfig.load(RECIPE), [*SMALL, "model.detector.num_classes=5"])
    torch.save({"model": instantiate(cfg.model).state_dict()}, folder / "coco.pth")
    where = [f"data.root={root}", f"train.output_dir={folder}", f"train.init_checkpoint={folder}/coco.pth"]
    run_train_net("--config-file", RECIPE, *SMALL, *where, "train.max_iter.epochs=1", "train.eval_period.epochs=1")
    return root, folder


def test_own_data_in_one_command(trained):
    _, folder = trained
    log = (folder / "log.txt").read_text()
    assert "class heads and label embedding are re-initialised for 2 classes; the checkpoint has 5" in log
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert "bbox/AP-dog" in lines[-1]
    checkpoint = torch.load(folder / "model_final.pth", weights_only=False)
    assert checkpoint["iteration"] == 1  # six images in batches of four
    weights = checkpoint["model"]
    assert weights["detector.label_embedding.weight"].shape == (2, 32)
    assert weights["detector.decoder.class_head.bias"].shape == (2,)


def test_a_trained_model_needs_no_dataset(trained, tmp_path):
    """config.yaml alone gives the predictor, with class names, after the dataset has gone."""
    root, folder = trained
    cfg = LazyConfig.load(str(folder / "config.yaml"))
    assert cfg.model.detector.num_classes == 2
    cfg.data.root = str(tmp_path / "gone")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    predictor = DefaultPredictor(predictor_cfg(tmp_path / "config.yaml", folder / "model_final.pth"))
    assert predictor.metadata.thing_classes == ["dog", "cat"]
    assert len(predictor(np.zeros((48, 64, 3), np.uint8))["instances"]) > 0
    with_data = predictor_cfg(RECIPE, folder / "model_final.pth", [*SMALL, f"data.root={root}"])
    assert DefaultPredictor(with_data).metadata.thing_classes == ["dog", "cat"]


def test_a_run_goes_on_from_its_config_yaml(trained, tmp_path):
    _, folder = trained
    run_train_net(
        "--config-file", str(folder / "config.yaml"), f"train.output_dir={tmp_path}", "train.max_iter.epochs=0.5"
    )
    assert torch.load(tmp_path / "model_final.pth", weights_only=False)["iteration"] == 0
