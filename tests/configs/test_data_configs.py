# SPDX-License-Identifier: Apache-2.0
"""configs/common/data: each file loads, instantiates and gives batches."""

import pytest

from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import num_classes
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.data import MetadataCatalog
from tests.paths import COCO_TINY, CONFIGS

DATA_CONFIGS = CONFIGS / "common" / "data"


def test_coco_is_detrs_recipe():
    cfg = LazyConfig.load(str(DATA_CONFIGS / "coco.py"))
    assert cfg.dataloader.train.dataset.names == "coco_2017_train"
    assert cfg.dataloader.test.dataset.names == "coco_2017_val"
    assert cfg.dataloader.evaluator.dataset_name == "coco_2017_val"
    assert cfg.dataloader.train.total_batch_size == 16
    assert "coco_2017_train" in MetadataCatalog.list()
    mapper = instantiate(cfg.dataloader.train.mapper)
    assert len(mapper.augmentations.augs) == 2
    test_mapper = instantiate(cfg.dataloader.test.mapper)
    assert test_mapper.image_format == "RGB"
    (resize,) = test_mapper.augmentations.augs
    assert (tuple(resize.short_edge_length), resize.max_size) == ((800,), 1333)


def test_swins_larger_images_are_a_config_line():
    cfg = LazyConfig.load(str(DATA_CONFIGS / "coco.py"))
    overrides = ["dataloader.train.mapper.augmentations.short_edge_lengths=[720,1200]"]
    cfg = LazyConfig.apply_overrides(cfg, [*overrides, "dataloader.train.mapper.augmentations.max_size=2000"])
    _, choice = instantiate(cfg.dataloader.train.mapper).augmentations.augs
    (resize,) = choice.branches[0].augs
    assert (tuple(resize.short_edge_length), resize.max_size) == ((720, 1200), 2000)


def test_shapes(tmp_path):
    cfg = LazyConfig.load(str(DATA_CONFIGS / "shapes.py"))
    cfg.dataloader.train.dataset.names.update(root=str(tmp_path / "s"), train=12, val=3)
    cfg.dataloader.test.dataset.names.update(train=12, val=3)
    cfg.dataloader.train.num_workers = 0
    batch = next(iter(instantiate(cfg.dataloader.train)))
    assert len(batch) == 8
    assert all(one["image"].shape == (3, 128, 128) and "instances" in one for one in batch)
    assert [len(batch) for batch in instantiate(cfg.dataloader.test)] == [1, 1, 1]
    assert instantiate(cfg.dataloader.evaluator)._metadata.json_file.endswith("shapes_val.json")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    assert len(instantiate(again.dataloader.test)) == 3


def test_custom_asks_for_its_paths():
    cfg = LazyConfig.load(str(DATA_CONFIGS / "custom.py"))
    with pytest.raises(DatasetError, match=r"data\.train\.json"):
        instantiate(cfg.dataloader.train)


@pytest.mark.skipif(not COCO_TINY.is_dir(), reason="real photographs are not beside the checkout")
def test_custom():
    cfg = LazyConfig.load(str(DATA_CONFIGS / "custom.py"))
    for split in ("train", "val"):
        cfg.data[split].json = str(COCO_TINY / "annotations" / f"instances_{split}2017.json")
        cfg.data[split].images = str(COCO_TINY / f"{split}2017")
    cfg.dataloader.train.update(total_batch_size=2, num_workers=0)
    cfg.dataloader.test.num_workers = 0
    cfg.classes = L(num_classes)(dataset="${dataloader.train.dataset.names}")
    assert instantiate(cfg.classes) == 80
    assert len(next(iter(instantiate(cfg.dataloader.train)))) == 2
    assert len(instantiate(cfg.dataloader.test)) == 50
    assert instantiate(cfg.dataloader.evaluator)._metadata.json_file == cfg.data.val.json
