# SPDX-License-Identifier: Apache-2.0
"""The training losses on the test set: their value, and that training does not notice."""

import json
import math
from pathlib import Path

import pytest
import torch

from dino_d2.detectron2.utils import comm
from dino_d2.engine.building import build
from dino_d2.engine.config import read_config
from dino_d2.engine.model import build_model
from dino_d2.engine.random_state import random_state
from dino_d2.engine.validation_loss import ImageLosses, mean_losses, validation_loss
from dino_d2.errors import UserError
from tests.in_process import run_train_net
from tests.paths import CONFIGS
from tests.small_data import THIN, generate_shapes
from tests.two_ranks import run_on_two_ranks


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    return [*generate_shapes(tmp_path_factory.mktemp("data") / "shapes", train=4, val=3), *THIN]


def small(overrides, *more):
    cfg = read_config(str(CONFIGS / "dino/dino_tiny_shapes.py"), [*overrides, *more])
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def test_it_is_the_loss_of_one_batch_of_all_images(overrides):
    cfg, model = small(overrides, "model.denoising=null")
    found = validation_loss(cfg, model)
    images = [image for batch in build(cfg, "dataloader.test") for image in batch]
    assert len({len(image["instances"]) for image in images}) > 1
    with torch.no_grad():
        expected = model.eval().losses(images)
    assert found["validation"] == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-4)
    assert found["validation_loss"] == pytest.approx(sum(found["validation"].values()))


def test_denoising_noise_has_a_seed_of_its_own_and_training_goes_on_unchanged(overrides):
    cfg, model = small(overrides)
    model.train()
    before, weights = random_state(), {name: value.clone() for name, value in model.state_dict().items()}
    first = validation_loss(cfg, model)
    after = random_state()
    assert torch.equal(before["torch"], after["torch"])
    assert before["python"] == after["python"]
    assert torch.equal(before["numpy"][0], after["numpy"][0])
    assert model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    torch.manual_seed(77)
    assert validation_loss(cfg, model) == first
    assert "loss_class_dn" in first["validation"]


def write_loss(folder: str, overrides: list[str]) -> None:
    """What one rank of one or two computes."""
    cfg, model = small(overrides)
    loss = validation_loss(cfg, model)
    Path(folder, f"rank{comm.get_rank()}.json").write_text(json.dumps(loss))


def test_two_ranks_agree_with_one(overrides, tmp_path):
    """Three images: the ranks have two and one."""
    run_on_two_ranks(write_loss, str(tmp_path), overrides)
    cfg, model = small(overrides)
    assert json.loads((tmp_path / "rank0.json").read_text()) == validation_loss(cfg, model)
    assert json.loads((tmp_path / "rank1.json").read_text()) == {}


def run(folder: Path, *overrides: str) -> list[float]:
    """Values in the metrics.json of a short run."""
    run_train_net(
        "--config-file", "configs/dino/dino_tiny_shapes.py", *overrides,
        f"train.output_dir={folder}", "train.num_pictures=0",
    )  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [line["validation_loss"] for line in lines if "validation_loss" in line]


def test_a_run_logs_it(overrides, tmp_path):
    (loss,) = run(tmp_path, *overrides, "train.validation_loss=true", "train.max_iter=1")
    assert math.isfinite(loss)
    assert f"validation_loss {loss:.4g} on 3 images" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_run_learns_the_same_with_it(overrides, tmp_path):
    period = ["train.max_iter=4", "train.eval_period=2"]
    assert len(run(tmp_path / "with", *overrides, *period, "train.validation_loss=true")) == 2
    assert run(tmp_path / "without", *overrides, *period) == []
    one, two = (torch.load(tmp_path / name / "model_final.pth", weights_only=True) for name in ("with", "without"))
    assert all(torch.equal(tensor, two["model"][name]) for name, tensor in one["model"].items())
    assert torch.equal(one["random_states"][0]["torch"], two["random_states"][0]["torch"])


def test_images_count_by_their_objects():
    images = {1: ImageLosses(3, {"a": 1.0}), 2: ImageLosses(0, {"a": 5.0}), 3: ImageLosses(1, {"a": 3.0, "b": 5.0})}
    assert mean_losses(images) == {"a": pytest.approx((3 + 5 + 3) / 5), "b": pytest.approx(1.0)}


def test_a_test_set_without_ground_truth(overrides):
    cfg, model = small(overrides)
    cfg.dataloader.test = [[{"image_id": 7, "image": None}]]
    with pytest.raises(UserError, match=r"train\.validation_loss: image 7 has no ground truth"):
        validation_loss(cfg, model)
