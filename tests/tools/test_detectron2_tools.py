# SPDX-License-Identifier: Apache-2.0
"""A real Detectron2's own tools and backbones with this project's configs."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dino_d2.detectron2 import ENGINE
from dino_d2.detectron2.config import LazyConfig, instantiate

if ENGINE != "detectron2":
    pytest.skip("needs a real Detectron2", allow_module_level=True)

import detectron2
from detectron2.engine import DefaultPredictor

from dino_d2.engine.model import load_weights
from dino_d2.predict import predictor_cfg
from tests.paths import ROOT

RECIPE = str(ROOT / "configs/dino/dino_tiny_shapes.py")
BACKBONES = sorted((ROOT / "configs/dino/backbones").glob("detectron2_*.py"))
LAZY_TRAIN_NET = Path(detectron2.__file__).parents[1] / "tools/lazyconfig_train_net.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Overrides for a shapes dataset of 8 + 4 images."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return [
        f"dataloader.train.dataset.names={{root: {root}, train: 8, val: 4, size: 64}}",
        "dataloader.test.dataset.names={train: 8, val: 4, size: 64}",
    ]


@pytest.fixture(scope="module")
def stock_run(data, tmp_path_factory):
    """Four iterations and an evaluation by Detectron2's own training script."""
    if not LAZY_TRAIN_NET.is_file():
        pytest.skip("Detectron2 was not installed from a checkout that has its tools")
    folder = tmp_path_factory.mktemp("run")
    command = [sys.executable, str(LAZY_TRAIN_NET), "--config-file", RECIPE, *data]
    command += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"]
    command += ["train.max_iter=4", "train.eval_period=4", "train.log_period=1", f"train.output_dir={folder}"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.mark.slow
def test_the_stock_training_script_trains_and_evaluates(stock_run):
    lines = [json.loads(line) for line in (stock_run / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [0, 1, 2, 3]
    assert 0 <= lines[-1]["bbox/AP"] <= 100


@pytest.mark.slow
def test_the_predictor_takes_its_checkpoint_and_the_visualizer_draws(stock_run):
    pytest.importorskip("cv2", reason="Detectron2's Visualizer needs OpenCV")
    from detectron2.utils.visualizer import Visualizer

    predictor = DefaultPredictor(predictor_cfg(stock_run / "config.yaml", stock_run / "model_final.pth"))
    image = np.full((64, 64, 3), 127, dtype=np.uint8)
    instances = predictor(image)["instances"].to("cpu")
    assert len(instances) == 100
    drawn = Visualizer(image[:, :, ::-1], predictor.metadata).draw_instance_predictions(instances[:3]).get_image()
    assert drawn.shape == image.shape
    assert (drawn != image).any()


@pytest.fixture
def small_detector():
    """Builds the model of a backbone recipe with a small transformer."""

    def make(recipe):
        cfg = LazyConfig.load(str(recipe))
        cfg.model.detector.encoder.update(num_layers=1, feedforward_dim=32)
        cfg.model.detector.decoder.update(num_layers=1, feedforward_dim=32)
        cfg.model.detector.queries.num_queries = 10
        cfg.model.denoising.groups.num_objects = 4
        torch.manual_seed(0)
        return instantiate(cfg.model), cfg

    return make


def test_there_are_recipes_for_each_kind_of_backbone():
    assert [path.stem for path in BACKBONES] == ["detectron2_resnet50", "detectron2_swin_b", "detectron2_vitdet_b"]


@pytest.mark.parametrize("recipe", BACKBONES, ids=lambda path: path.stem)
def test_detectron2s_backbones_train_and_detect(recipe, small_detector, make_input):
    """On an image whose sides are no multiples of anything: every map covers it whole."""
    model, cfg = small_detector(recipe)
    image = make_input(70, 101, objects=2)
    with torch.no_grad():
        maps = model.detector.backbone(model.normalise(image["image"])[None])
    sizes = [tuple(maps[name].shape[-2:]) for name in model.detector.neck.stages]
    assert sizes == [(9, 13), (5, 7), (3, 4)]
    losses = model.train()([image])
    sum(losses.values()).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert any(name.startswith("detector.backbone.") for name in trained)
    assert len(model.eval()([image])[0]["instances"]) == 300
    cfg.optimizer.params.model = model
    rates = {id(p): g["lr"] for g in instantiate(cfg.optimizer).param_groups for p in g["params"]}
    assert {rates[id(p)] for name, p in trained.items() if "backbone" in name} == {1e-5}


def test_weights_of_detectron2s_backbones_are_found_by_name(small_detector, tmp_path):
    """In the form of its model zoo: no prefix, to be matched by suffix."""
    model, _ = small_detector(ROOT / "configs/dino/backbones/detectron2_resnet50.py")
    weights = {name: torch.rand_like(p).numpy() for name, p in model.detector.backbone.named_parameters()}
    content = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    load_weights(model, str(tmp_path / "R-50.pkl"))
    for name, parameter in model.detector.backbone.named_parameters():
        assert torch.equal(parameter, torch.from_numpy(weights[name])), name


def timm_name(name: str) -> str:
    """Name in timm's ResNet of a tensor of Detectron2's."""
    for stage in range(2, 6):
        name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
    for number in (1, 2, 3):
        name = name.replace(f"conv{number}.norm", f"bn{number}")
    return name.replace("stem.", "").replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")


def test_detectron2s_resnet_is_timms_resnet(small_detector):
    """The same weights give the same maps, and the same stages are fixed."""
    theirs = small_detector(ROOT / "configs/dino/backbones/detectron2_resnet50.py")[0].detector.backbone
    cfg = LazyConfig.load(str(ROOT / "configs/dino/dino_r50_4scale_12ep.py"))
    cfg.model.detector.backbone.pretrained = False
    ours = instantiate(cfg.model.detector.backbone)
    for module in ours.modules():  # fresh running statistics would hide which one is used where
        if hasattr(module, "running_mean"):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    weights = ours.body.state_dict()
    theirs.load_state_dict({name: weights[timm_name(name)] for name in theirs.state_dict()})
    images = torch.randn(1, 3, 70, 101)
    for name, expected in ours(images).items():
        torch.testing.assert_close(theirs(images)[name], expected, rtol=1e-4, atol=1e-4)
    fixed = {timm_name(name) for name, p in theirs.named_parameters() if not p.requires_grad}
    assert {n for n in fixed if "bn" not in n} == {n for n, p in ours.body.named_parameters() if not p.requires_grad}
