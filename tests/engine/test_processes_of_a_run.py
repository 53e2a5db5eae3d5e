# SPDX-License-Identifier: Apache-2.0
"""What a run says and checks in view of the processes that it has."""

import sys

import pytest

from dino_d2.detectron2.utils import comm
from dino_d2.engine import command
from dino_d2.engine.preemption import resume_command
from tests.in_process import run_train_net

RECIPE = "configs/dino/dino_tiny_shapes.py"


@pytest.fixture(autouse=True)
def started_as(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", "my recipe.py", "--resume", "train.seed=1"])


def test_a_run_of_python_is_resumed_with_python():
    assert resume_command("output/one") == "python train_net.py --resume --config-file 'my recipe.py' train.seed=1"


def test_a_run_in_a_numbered_folder_is_resumed_there(monkeypatch):
    assert resume_command("output/one_2").endswith("'my recipe.py' train.seed=1 train.output_dir=output/one_2")
    monkeypatch.setattr(sys, "argv", ["train_net.py", "train.output_dir=output/one_2"])
    assert resume_command("output/one_2") == "python train_net.py --resume train.output_dir=output/one_2"


def test_a_run_of_the_console_command_is_resumed_with_it(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/env/bin/dino_d2", "train", "--config-file", "mine.py", "train.seed=1"])
    assert resume_command("output/one") == "/env/bin/dino_d2 train --resume --config-file mine.py train.seed=1"


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        (2, "torchrun --standalone --nproc-per-node 2"),
        (6, "torchrun --nnodes 3 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint node7:29500"),
    ],
)
def test_a_run_of_torchrun_is_resumed_with_torchrun(monkeypatch, ranks, words):
    variables = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "node7", "MASTER_PORT": 29500}
    for name, value in (variables | {"TORCHELASTIC_RUN_ID": "none"}).items():
        monkeypatch.setenv(name, str(value))
    assert resume_command("output/one") == f"{words} train_net.py --resume --config-file 'my recipe.py' train.seed=1"


@pytest.mark.parametrize("flags", [["--eval-only"], []])
def test_evaluation_alone_takes_any_training_batch_size(monkeypatch, tmp_path, flags):
    seen = []
    monkeypatch.setattr(command, "evaluate", seen.append)
    monkeypatch.setattr(command, "train", lambda cfg, resume: seen.append(cfg))
    monkeypatch.setattr("dino_d2.engine.config.set_up", lambda cfg, args: None)
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    data = [f"dataloader.train.dataset.names={{root: {tmp_path}/shapes, train: 2, val: 2, size: 64}}"]
    data.append("dataloader.test.dataset.names={train: 2, val: 2, size: 64}")
    words = ["--config-file", RECIPE, *flags, *data, "dataloader.train.total_batch_size=4"]
    if flags:
        run_train_net(*words, f"train.output_dir={tmp_path}/out")
        assert len(seen) == 1
        return
    with pytest.raises(SystemExit, match="total_batch_size=4 cannot be shared evenly by 3 processes"):
        run_train_net(*words, f"train.output_dir={tmp_path}/out")
    assert not seen
