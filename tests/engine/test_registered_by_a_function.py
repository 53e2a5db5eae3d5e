# SPDX-License-Identifier: Apache-2.0
"""The way of Detectron2's tutorial, under either engine: `DatasetCatalog.register` and `thing_classes`, no json."""

import json
from pathlib import Path

import pytest

from dino_d2.data.shapes import Recipe, generate
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.engine.config import CLASSES as COUNTED
from dino_d2.engine.config import SCHEDULE, read_config, resolve_calls
from tests.in_process import run_train_net
from tests.paths import ROOT

CLASSES = ["circle", "square", "triangle", "star", "ring"]

#: A recipe as a user writes it. The training section is Detectron2's own configs/common/train.py, key by key.
RECIPE = """
import json, pathlib
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.structures import BoxMode
from .configs.dino.dino_tiny_shapes import dataloader, lr_multiplier, model, optimizer

def dicts(split):
    coco = json.loads(pathlib.Path("data/annotations/shapes_" + split + ".json").read_text())
    images = {image["id"]: image for image in coco["images"]}
    boxes = {key: [] for key in images}
    for a in coco["annotations"]:
        boxes[a["image_id"]].append(
            {"bbox": a["bbox"], "bbox_mode": BoxMode.XYWH_ABS, "category_id": a["category_id"] - 1})
    return [dict(file_name="data/" + split + "/" + image["file_name"], image_id=key, height=image["height"],
                 width=image["width"], annotations=boxes[key]) for key, image in images.items()]

for split in ("train", "val"):
    if "mine_" + split not in DatasetCatalog:
        DatasetCatalog.register("mine_" + split, lambda split=split: dicts(split))
        MetadataCatalog.get("mine_" + split).set(thing_classes=CLASSES)

train = dict(
    output_dir="./output", init_checkpoint="", max_iter=2, amp=dict(enabled=False),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=100), eval_period=1, log_period=20, device="cpu")

dataloader.train.dataset.names = "mine_train"
dataloader.test.dataset.names = "mine_val"
dataloader.train.num_workers = 0
dataloader.train.total_batch_size = 2
model.detector.embed_dim = 64
model.detector.encoder.update(num_layers=1, feedforward_dim=32, num_heads=4)
model.detector.decoder.update(num_layers=1, feedforward_dim=32, num_heads=4)
""".replace("CLASSES", repr(CLASSES))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with four and three images, and the recipe mine.py beside configs/."""
    generate(tmp_path / "data", Recipe(train=4, val=3, size=64))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "mine.py").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("mine_train", "mine_val"):
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)


def test_it_trains_and_evaluates_with_no_further_setting(place):
    run_train_net("--config-file", "mine.py")
    lines = [json.loads(line) for line in (place / "output/mine/metrics.json").read_text().splitlines()]
    evaluated = [line for line in lines if "bbox/AP" in line]
    assert [line["iteration"] for line in evaluated] == [0, 2]
    assert {f"bbox/AP-{name}" for name in CLASSES} <= evaluated[-1].keys()
    assert (place / "output/mine/predictions.png").is_file()
    converted = json.loads((place / "output/mine/mine_val_coco_format.json").read_text())
    truth = json.loads((place / "data/annotations/shapes_val.json").read_text())
    for a, b in zip(converted["annotations"], truth["annotations"], strict=True):
        assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-3)
        assert a["category_id"] == b["category_id"] - 1


def test_a_changed_dataset_is_converted_again(place):
    (place / "output/mine").mkdir(parents=True)
    old = place / "output/mine/mine_val_coco_format.json"
    old.write_text('{"images": [], "annotations": [], "categories": []}')
    run_train_net("--config-file", "mine.py", "train.max_iter=1", "train.num_pictures=0")
    assert len(json.loads(old.read_text())["images"]) == 3


def test_the_recipe_for_own_data_counts_its_images_and_classes(place):
    read_config("mine.py")  # registers them
    names = ["dataloader.train.dataset.names=mine_train", "dataloader.test.dataset.names=mine_val"]
    cfg = read_config(str(ROOT / "configs/dino/dino_r50_4scale_custom.py"), [*names, "train.max_iter.epochs=6"])
    resolve_calls(cfg, (*COUNTED, *SCHEDULE))
    assert cfg.train.max_iter == 6  # batches of all four images
    assert cfg.model.detector.num_classes == len(CLASSES)
    assert cfg.data.classes == CLASSES


@pytest.mark.parametrize(
    ("change", "override", "words"),
    [
        (('"bbox": a', '"box": a'), (), ["dataset mine_train, image number 0", "annotation 0: has no bbox"]),
        (('"bbox": a', '"bbox": 5, "box": a'), (), ["image number 0", "bbox=5 must be 4 numbers"]),
        (
            ("image_id=key, ", "image_id=[key], "),
            (),
            ["dataset mine_val, image number 0", "a number or a text"],
        ),
        (("image_id=key, ", ""), (), ["dataset mine_val, image number 0", "has no image_id"]),
        (('height=image["height"],\n', ""), (), ["dataset mine_val", "has no height"]),
        (("seed", "seed"), ["dataloader.evaluator.output_dir=null"], ["dataloader.evaluator", "output_dir"]),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_training(place, change, override, words, monkeypatch):
    monkeypatch.setattr("dino_d2.engine.run.build_model", lambda cfg: pytest.fail("a model was built"))
    (place / "mine.py").write_text(RECIPE.replace(*change))
    with pytest.raises(SystemExit) as stopped:
        run_train_net("--config-file", "mine.py", *override)
    assert [word for word in words if word not in str(stopped.value)] == [], stopped.value


def test_keys_that_detectron2s_training_section_lacks_take_this_projects_defaults(place):
    ours = read_config(str(ROOT / "configs/dino/dino_tiny_shapes.py")).train
    cfg = read_config("mine.py", ["train.clip_grad_norm=0.5"])
    assert cfg.train.keys() == ours.keys()
    assert cfg.train.clip_grad_norm == 0.5
    assert cfg.train.checkpointer == {"period": 5000, "max_to_keep": 100}
    assert cfg.train.amp == {"enabled": False, "dtype": "bfloat16"}
    assert cfg.train.ddp.device_ids is None
    assert cfg.train.ema == ours.ema
