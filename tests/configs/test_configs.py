# SPDX-License-Identifier: Apache-2.0
"""Every recipe builds, and the full-size one trains and detects at the size COCO has."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from dino_d2 import get_config
from dino_d2.detectron2.config import LazyConfig, instantiate
from tests.paths import ROOT

RECIPES = sorted(
    p.relative_to(ROOT).as_posix()
    for pattern in ("*/*.py", "dino/ablations/*.py", "dino/objects365/*.py")
    for p in (ROOT / "configs").glob(pattern)
    if p.parent.name != "common"
)


@pytest.fixture
def load(tmp_path):
    """Loads a recipe without pretrained weights; recipes for own data get a json with two classes."""

    def load_recipe(recipe):
        cfg = LazyConfig.load(str(ROOT / recipe))
        cfg.model.detector.backbone.pretrained = False
        if "data" in cfg:
            categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
            Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
            images = [{"id": 1, "file_name": "1.png", "width": 8, "height": 8}]
            coco = {"images": images, "annotations": [], "categories": categories}
            (tmp_path / "own.json").write_text(json.dumps(coco))
            for split in ("train", "val"):
                cfg.data[split] = {"json": str(tmp_path / "own.json"), "images": str(tmp_path)}
        return cfg

    return load_recipe


@pytest.fixture(scope="module")
def build():
    """Builds a recipe's model on the meta device; recipes with one configuration of the backbone share it."""
    backbones: dict[str, torch.nn.Module] = {}

    def build_model(cfg):
        key = OmegaConf.to_yaml(cfg.model.detector.backbone)
        with torch.device("meta"):  # the shapes alone: full-size models in milliseconds
            if key not in backbones:
                backbones[key] = instantiate(cfg.model.detector.backbone)
            cfg.model.detector.backbone = backbones[key]
            return instantiate(cfg.model)

    return build_model


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_builds_model_optimizer_and_schedule(recipe, load, build):
    cfg = load(recipe)
    model = build(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) > 0
    multiplier = instantiate(cfg.lr_multiplier)
    assert multiplier(0.5) == pytest.approx(1.0)
    assert multiplier(0.999) == pytest.approx(0.1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_writes_to_a_folder_of_its_own_name(recipe):
    assert get_config(ROOT / recipe).train.output_dir == f"./output/{Path(recipe).stem}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_matching_and_losses_share_their_settings(recipe, load):
    criterion = instantiate(load(recipe).model.criterion)
    matcher = criterion.matcher
    assert (matcher.bbox_cost, matcher.giou_cost) == (criterion.weights["bbox"], criterion.weights["giou"])
    assert matcher.giou_eps == criterion.giou_eps
    assert type(matcher.classes) is type(criterion.classes)
    assert vars(matcher.classes) == vars(criterion.classes)


def test_the_backbone_learns_at_a_tenth_of_the_rate(load):
    cfg = load("configs/dino/dino_r50_4scale_12ep.py")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    rate = {id(p): group["lr"] for group in instantiate(cfg.optimizer).param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rate[id(parameter)] == pytest.approx(1e-5 if "backbone" in name else 1e-4), name


@pytest.mark.large_memory
@pytest.mark.slow
def test_full_size_training_step_and_detection(make_input, load):
    """At the smallest scale of the recipe's training images, and at that of its detections."""
    torch.manual_seed(0)
    model = instantiate(load("configs/dino/dino_r50_4scale_12ep.py").model).train()
    losses = model([make_input(480, 736, objects=3)])
    assert len(losses) == 3 * (6 + 1 + 6)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.zero_grad()
    instances = model.eval()([make_input(800, 1216)])[0]["instances"]
    assert len(instances) == 300
    assert instances.image_size == (800, 1216)
