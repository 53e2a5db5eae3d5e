# SPDX-License-Identifier: Apache-2.0
"""The recipes for own data: the same keys, what is computed from the data, and a training in one line."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from dino_d2.data.augmentation import augmentation_at_size, detr_augmentation, flip_and_resize
from dino_d2.data.pictures import read_picture
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.detectron2.engine import DefaultPredictor
from dino_d2.engine.config import IMAGE_SIZE, SCHEDULE, read_config, resolve_calls
from dino_d2.predictor import predictor_cfg
from tests.data.test_custom_data import roboflow
from tests.in_process import run_train_net
from tests.paths import CONFIGS

SMALL = str(CONFIGS / "dino/dino_small_custom.py")
LARGE = str(CONFIGS / "dino/dino_r50_4scale_custom.py")
#: The small recipe's model, smaller.
TINY = [
    "model.detector.embed_dim=32",
    "model.detector.backbone.options.channels=[8, 8, 8, 8]",
    "model.detector.neck.in_channels={res3: 8, res4: 8, res5: 8}",
    "model.detector.encoder={num_layers: 1, feedforward_dim: 32, num_heads: 4}",
    "model.detector.decoder={num_layers: 1, feedforward_dim: 32, num_heads: 4}",
    "dataloader.train.mapper.augmentations.short_edge_lengths=[64]",
    "train.device=cpu",
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("recipe", [SMALL, LARGE])
def test_both_recipes_have_the_documented_keys(recipe):
    overrides = [
        "data.root=mine", "data.train.json=a", "data.train.images=b", "data.val.json=c", "data.val.images=d",
        "data.within=e", "data.image_size=320", "data.skip_bad_images=true", "train.max_iter.epochs=7",
        "train.eval_period.epochs=3", "train.checkpointer.period.epochs=2", "dataloader.train.total_batch_size=6",
        "train.accumulate=2", "optimizer.lr=3e-4", "train.init_checkpoint=coco.pth",
        "dataloader.train.mapper.augmentations.short_edge_lengths=[64]",
        "dataloader.train.mapper.augmentations.max_size=100",
        "dataloader.test.mapper.augmentations.max_size=100",
    ]  # fmt: skip
    cfg = read_config(recipe, overrides)
    assert cfg.train.max_iter.epochs == 7
    assert cfg.optimizer.params.base_lr == 3e-4


def test_lengths_and_rate_follow_from_the_data(tmp_path):
    cfg = read_config(
        SMALL, [f"data.root={roboflow(tmp_path / 'data')}", "train.device=cpu"]
    )  # 64 x 48, boxes of 30 x 20
    resolve_calls(cfg, IMAGE_SIZE + SCHEDULE)
    assert cfg.data.image_size == 192
    batch = cfg.dataloader.train.total_batch_size
    assert cfg.train.max_iter == 300 * 6 / batch
    assert cfg.train.eval_period == cfg.train.checkpointer.period == 300 * 6 / batch / 5
    assert instantiate(cfg.optimizer.lr) == pytest.approx(1e-3 * (batch / 8) ** 0.5)
    cfg.train.accumulate = 4
    assert instantiate(cfg.optimizer.lr) == pytest.approx(2e-3 * (batch / 8) ** 0.5)
    (resize,) = instantiate(cfg.dataloader.test.mapper.augmentations)
    assert (resize.short_edge_length, resize.max_size) == ((192,), 320)


def test_the_large_recipe_keeps_its_sizes():
    cfg = read_config(LARGE)
    found, expected = instantiate(cfg.dataloader.train.mapper.augmentations), detr_augmentation()
    assert _lengths(found) == _lengths(expected)
    (resize,) = instantiate(cfg.dataloader.test.mapper.augmentations)
    assert (resize.short_edge_length, resize.max_size) == ((800,), 1333)
    assert _lengths(augmentation_at_size(400)) != _lengths(expected)


def _lengths(augmentations):
    _, choice = augmentations
    (alone,), (before, crop, after) = (branch.augs for branch in choice.branches)
    return [(a.short_edge_length, a.max_size) for a in (alone, before, after)] + [tuple(crop.crop_size)]


def test_given_lengths_count():
    _, resize = flip_and_resize(200, short_edge_lengths=[50, 60])
    assert (resize.short_edge_length, resize.max_size) == ((50, 60), 100)
    _, resize = flip_and_resize(200, max_size=222, short_edge_scales=[0.5, 1.2])
    assert (resize.short_edge_length, resize.max_size) == ((100, 240), 222)
    assert _lengths(augmentation_at_size(800, short_edge_lengths=[64], crop_size=[32, 48]))[3] == (32, 48)


@pytest.fixture
def run(tmp_path):
    """(dataset, output folder) of the small recipe's first iteration."""
    root, folder = roboflow(tmp_path / "data"), tmp_path / "run"
    schedule = ["train.max_iter.epochs=0.5", "train.num_pictures=0"]
    run_train_net("--config-file", SMALL, *TINY, f"data.root={root}", f"train.output_dir={folder}", *schedule)
    return root, folder


def test_one_line_trains_from_random_weights(run, tmp_path):
    root, folder = run
    log = (folder / "log.txt").read_text()
    assert "data.image_size=192, computed from the data" in log
    assert "train.max_iter=1, computed from the data" in log
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert "bbox/AP-dog" in lines[-1]
    assert torch.load(folder / "model_final.pth", weights_only=False)["iteration"] == 0
    cfg = LazyConfig.load(str(folder / "config.yaml"))
    assert cfg.data.image_size == 192  # a number, so that prediction does not need the dataset
    cfg.data.root = str(tmp_path / "gone")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    predictor = DefaultPredictor(predictor_cfg(tmp_path / "config.yaml", folder / "model_final.pth"))
    image = DatasetCatalog.get(_name(root))[0]["file_name"]
    assert len(predictor(read_picture(image, "BGR"))["instances"]) > 0


def _name(root):
    return instantiate(read_config(SMALL, [f"data.root={root}"]).dataloader.train.dataset.names)


def test_the_config_holds_no_helpers():
    sections = {"data", "dataloader", "lr_multiplier", "model", "optimizer", "train"}
    assert set(OmegaConf.to_container(LazyConfig.load(SMALL), resolve=False)) == sections
