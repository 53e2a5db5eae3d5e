"""Detectron2's DefaultPredictor on this project's configs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.detectron2.checkpoint import DetectionCheckpointer
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.detectron2.data import MetadataCatalog
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.engine import DefaultPredictor
from dino_d2.predictor import predictor_cfg

SMALL = ["model.detector.encoder.num_layers=1", "model.detector.decoder.num_layers=2"]
CONFIGS = Path(__file__).parents[1] / "configs/dino"
RECIPE = str(CONFIGS / "dino_tiny_shapes.py")
PRETRAINED = str(CONFIGS / "dino_r50_4scale_12ep.py")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Overrides for a shapes dataset of three images."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return [f"dataloader.{split}.dataset.names={{root: {root}, train: 2, val: 3}}" for split in ("train", "test")]


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """(overrides, weights file) of a small model."""
    overrides = [*shapes, *SMALL]
    cfg = LazyConfig.apply_overrides(LazyConfig.load(RECIPE), overrides)
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    DetectionCheckpointer(instantiate(cfg.model), str(folder)).save("weights")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return overrides, folder / "weights.pth"


def detections(instances):
    return instances.pred_boxes.tensor, instances.scores, instances.pred_classes


def test_predictor_finds_what_the_test_loader_finds(trained, tmp_path):
    """The same weights, image and resize by either way; a photograph larger than the resize, from BGR."""
    overrides, weights = trained
    resize = "dataloader.test.mapper.augmentations=[]"
    cfg = LazyConfig.apply_overrides(LazyConfig.load(RECIPE), [*overrides, resize])
    cfg.dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=[96, 96], max_size=130)]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    rgb = np.random.default_rng(0).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "image.png")

    predictor = DefaultPredictor(predictor_cfg(tmp_path / "config.yaml", weights))
    found = predictor(np.ascontiguousarray(rgb[:, :, ::-1]))["instances"]

    model = instantiate(cfg.model).eval()
    DetectionCheckpointer(model).load(str(weights))
    mapped = instantiate(cfg.dataloader.test.mapper)({"file_name": str(tmp_path / "image.png"), "image_id": 1})
    assert mapped["image"].shape == (3, 78, 130)
    expected = model.to(predictor.model.device)([mapped])[0]["instances"]
    assert found.image_size == expected.image_size == (120, 200)
    for a, b in zip(detections(found), detections(expected), strict=True):
        assert torch.equal(a, b)


def test_recipe_and_the_config_of_its_run_give_one_predictor(trained):
    overrides, weights = trained
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    by_recipe = DefaultPredictor(predictor_cfg(RECIPE, weights, overrides))(image)["instances"]
    by_run = DefaultPredictor(predictor_cfg(weights.parent / "config.yaml", weights))(image)["instances"]
    for a, b in zip(detections(by_recipe), detections(by_run), strict=True):
        assert torch.equal(a, b)


def test_the_predictor_knows_the_class_names(trained):
    overrides, weights = trained
    predictor = DefaultPredictor(predictor_cfg(RECIPE, weights, overrides))
    assert len(predictor.metadata.thing_classes) == 5
    assert predictor.model.detector.label_embedding.num_embeddings == 5


def test_the_config_can_be_written_and_read(trained):
    overrides, weights = trained
    cfg = predictor_cfg(RECIPE, weights, overrides)
    again = type(cfg).load_cfg(cfg.dump())
    assert again.MODEL.LAZY_CONFIG == cfg.MODEL.LAZY_CONFIG
    assert str(weights) == again.MODEL.WEIGHTS


def test_values_come_from_the_test_mapper_and_nothing_is_fetched(monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", pytest.fail)
    cfg = predictor_cfg(PRETRAINED, "weights.pth", ["dataloader.test.mapper.augmentations.short_edge_length=640"])
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT) == (640, 1333, "RGB")
    assert cfg.DATASETS.TEST == ("coco_2017_val",)
    assert MetadataCatalog.get("coco_2017_val").thing_classes[0] == "person"
    cfg = predictor_cfg(PRETRAINED, "weights.pth", ["dataloader.test.dataset.names=mine"])
    assert cfg.DATASETS.TEST == ("mine",)
    cfg = predictor_cfg(RECIPE, "weights.pth", ["dataloader.test.dataset.names=mine"])
    assert cfg.INPUT.MIN_SIZE_TEST == 0


def test_a_mapper_that_flips_is_refused(tmp_path):
    cfg = LazyConfig.load(PRETRAINED)
    cfg.dataloader.test.mapper.augmentations = [L(T.RandomFlip)(prob=1.0)]
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    with pytest.raises(ValueError, match=r"dataloader\.test\.mapper has"):
        predictor_cfg(tmp_path / "config.yaml", "weights.pth")
