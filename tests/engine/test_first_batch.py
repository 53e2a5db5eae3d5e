# SPDX-License-Identifier: Apache-2.0
"""The first batch of a run as a picture, and images that are left out of one."""

import pytest
import torch
from PIL import Image

from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine import Trainer
from dino_d2.engine.first_batch import PictureOfFirstBatch
from tests.configs.test_custom_recipes import SMALL, TINY
from tests.data.test_custom_data import roboflow
from tests.engine.test_ending import Scale
from tests.in_process import run_train_net


class FakeTrainer:
    def __init__(self, iteration, batch):
        self.iter, self.first_batch = iteration, batch


def step(tmp_path, iteration, batch):
    hook = PictureOfFirstBatch(tmp_path / "first.png", "RGB", None)
    hook.trainer = FakeTrainer(iteration, batch)
    hook.after_step()
    return (tmp_path / "first.png").exists()


def test_it_is_drawn_once(tmp_path):
    batch = [{"image": torch.zeros(3, 20, 30, dtype=torch.uint8), "image_id": 1}]
    assert not step(tmp_path, 5, batch), "a resumed run"
    assert step(tmp_path, 0, batch)


@pytest.mark.parametrize(
    "batch", [[{"image": torch.zeros(3, 20, 30)}], [{"image": torch.zeros(1, 20, 30, dtype=torch.uint8)}], [None]]
)
def test_batches_of_another_kind_are_not_drawn(batch, tmp_path):
    assert not step(tmp_path, 0, batch)


def test_the_trainer_holds_the_first_batch_for_one_step():
    model = Scale()
    batches = [[{"image_id": k}] for k in range(2)]
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1))
    held = []
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(2):
            trainer.run_step()
            held.append(trainer.first_batch)
    assert held == [batches[0], []]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    root = roboflow(tmp_path / "data")
    damaged = sorted((root / "train").glob("*.png"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    return root


def train(data, folder, *overrides):
    schedule = ["train.max_iter=2", "train.num_pictures=0", "dataloader.train.total_batch_size=3"]
    run_train_net(
        "--config-file", SMALL, *TINY, f"data.root={data}", f"train.output_dir={folder}", *schedule, *overrides
    )


def test_a_run_without_its_damaged_image(data, tmp_path):
    train(data, tmp_path / "run", "data.skip_bad_images=true")
    log = (tmp_path / "run/log.txt").read_text()
    assert "1 of 6 images cannot be read and are left out, with their 1 annotations (data.skip_bad_images)" in log
    assert f"The first batch, as the model was given it: {tmp_path}/run/first_batch.png" in log
    assert Image.open(tmp_path / "run/first_batch.png").width > 400


def test_the_damaged_image_ends_a_run_that_keeps_it(data, tmp_path):
    with pytest.raises(SystemExit, match=r"skip_bad_images=true"):
        train(data, tmp_path / "run")
