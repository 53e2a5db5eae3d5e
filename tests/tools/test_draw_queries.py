# SPDX-License-Identifier: Apache-2.0
"""tools/draw_queries.py: from a checkpoint and a picture to the inside of the decoder."""

import importlib.util

import pytest
import torch
from PIL import Image

from dino_d2.data.shapes import Recipe, generate
from dino_d2.detectron2.config import LazyConfig, instantiate
from tests.paths import ROOT


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("draw_queries", ROOT / "tools" / "draw_queries.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with config.yaml, weights.pth of a small model and shapes/."""
    folder = tmp_path_factory.mktemp("trained")
    generate(folder / "shapes", Recipe(train=1, val=3, size=64))
    shapes = f"{{root: {folder}/shapes, train: 1, val: 3, size: 64}}"
    names = [f"dataloader.{split}.dataset.names={shapes}" for split in ("train", "test")]
    small = ["model.detector.encoder.num_layers=1", "model.detector.decoder.num_layers=2"]
    recipe = LazyConfig.load(str(ROOT / "configs/dino/dino_tiny_shapes.py"))
    cfg = LazyConfig.apply_overrides(recipe, [*names, *small])
    torch.manual_seed(0)
    torch.save({"model": instantiate(cfg.model).state_dict()}, folder / "weights.pth")
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return folder


@pytest.fixture
def run(tool, trained, tmp_path):
    def run(picture, *flags) -> list[str]:
        files = ["--config-file", trained / "config.yaml", "--weights", trained / "weights.pth"]
        tool.main([*map(str, [*files, "--input", picture, "--output", tmp_path / "out", *flags])])
        return sorted(path.name for path in (tmp_path / "out").iterdir())

    return run


def test_a_picture_of_the_test_set_gets_both_panels(run, trained, tmp_path):
    pictures = sorted((trained / "shapes" / "val").iterdir())
    assert run(pictures[0]) == ["000001_denoising.png", "000001_sampling_points.png"]
    best = Image.open(tmp_path / "out" / "000001_sampling_points.png").copy()
    assert best.width > 2 * 480  # two layers beside each other
    run(pictures[0], "--query", "7", "--seed", "3")
    assert best != Image.open(tmp_path / "out" / "000001_sampling_points.png")


def test_another_picture_has_no_ground_truth(run, tmp_path, capsys):
    Image.new("RGB", (80, 60), (90, 120, 90)).save(tmp_path / "mine.jpg")
    assert run(tmp_path / "mine.jpg") == ["mine_sampling_points.png"]
    assert "not in the config's test set" in capsys.readouterr().out


def test_mistakes_are_met_with_one_message(run, trained):
    with pytest.raises(SystemExit, match=r"error: image nothing\.png does not exist"):
        run("nothing.png")
    with pytest.raises(SystemExit, match="error: there is no query 999"):
        run(trained / "shapes" / "val" / "000001.png", "--query", "999")
