# SPDX-License-Identifier: Apache-2.0
"""Recipes and models by name."""

import subprocess
import sys

import pytest
import torch

import dino_d2
from dino_d2 import build_model, get_config
from dino_d2.errors import UserError

RECIPE = "dino/dino_tiny_shapes.py"
SMALL = ["model.detector.encoder.num_layers=1", "model.detector.decoder.num_layers=1"]


def test_a_config_by_name_takes_overrides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert get_config("dino/dino_r50_4scale_12ep.py").model.detector.num_levels == 4
    assert get_config(RECIPE, SMALL).model.detector.encoder.num_layers == 1
    with pytest.raises(UserError, match="there is no config file"):
        get_config("dino/nothing.py")
    with pytest.raises(UserError, match="nothing"):
        get_config(RECIPE, ["train.nothing=1"])


def test_a_model_is_built_with_weights_in_evaluation_mode(tmp_path):
    cfg = get_config(RECIPE, SMALL)
    one = build_model(cfg, device="cpu")
    assert not one.training
    torch.save({"model": one.state_dict()}, tmp_path / "weights.pth")
    cfg.model.detector.backbone.pretrained = True  # and yet nothing is downloaded
    other = build_model(cfg, tmp_path / "weights.pth", device="cpu")
    assert cfg.model.detector.backbone.pretrained
    assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in other.state_dict().items())
    image = {"image": torch.zeros(3, 64, 96, dtype=torch.uint8), "height": 128, "width": 192}
    (found,) = other([image])
    assert found["instances"].image_size == (128, 192)


def test_weights_must_be_there_and_fit(tmp_path):
    with pytest.raises(UserError, match=r"there is no checkpoint nothing\.pth"):
        build_model(RECIPE, "nothing.pth")
    (tmp_path / "broken.pth").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"broken\.pth is not a checkpoint"):
        build_model(RECIPE, tmp_path / "broken.pth")
    torch.save({"model": build_model(get_config(RECIPE, SMALL), device="cpu").state_dict()}, tmp_path / "small.pth")
    with pytest.raises(UserError, match="does not fit the model of the given config"):
        build_model(get_config(RECIPE), tmp_path / "small.pth", device="cpu")


@pytest.mark.large_memory
def test_importing_the_package_imports_no_torch():
    code = "import sys, dino_d2; assert 'torch' not in sys.modules; from dino_d2 import Predictor; print(Predictor)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "dino_d2.predict.predictor.Predictor" in done.stdout


def test_the_package_names_what_it_offers():
    assert {"Predictor", "build_model", "get_config"} <= set(dir(dino_d2))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        dino_d2.nothing  # noqa: B018
