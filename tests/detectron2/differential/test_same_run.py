# SPDX-License-Identifier: Apache-2.0
"""A run of train_net.py under each engine, in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.paths import ROOT

TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}
SHORT = [
    "train.max_iter=20",
    "train.log_period=1",
    "train.eval_period=0",
    "train.num_pictures=0",
    "train.checkpointer.period=10",
    "dataloader.train.num_workers=2",
    "dataloader.train.total_batch_size=2",
    "+dataloader.evaluator.use_fast_impl=False",
]


def train(engine: str, config: Path, output: Path, *overrides: str, resume: bool = False) -> Path:
    environment = os.environ | {"DINO_D2_ENGINE": engine, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "ignore", "train_net.py", "--config-file", str(config), *["--resume"] * resume]
    command += [*overrides, f"train.output_dir={output}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def tensorboard_tags(folder: Path) -> list[str]:
    return sorted(EventAccumulator(str(folder)).Reload().Tags()["scalars"])


@pytest.fixture(scope="module")
def recipe_runs(tmp_path_factory):
    """engine -> folder of a run of the recipe."""
    folder = tmp_path_factory.mktemp("runs")
    shapes = f"dataloader.train.dataset.names={{root: {folder / 'shapes'}, train: 30, val: 6, size: 64}}"
    short = [shapes, "dataloader.test.dataset.names={train: 30, val: 6, size: 64}", *SHORT]
    recipe = ROOT / "configs/dino/dino_tiny_shapes.py"
    return {engine: train(engine, recipe, folder / engine, *short) for engine in ("embedded", "detectron2")}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_same_losses_weights_and_ap(recipe_runs):
    compare(recipe_runs["embedded"], recipe_runs["detectron2"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_each_trains_from_the_config_yaml_of_the_other(recipe_runs, tmp_path):
    # yaml sorts the keys, so parts are made in another order, with other random weights than from the recipe
    by_yaml = [
        train(engine, recipe_runs[other] / "config.yaml", tmp_path / engine)
        for engine, other in (("detectron2", "embedded"), ("embedded", "detectron2"))
    ]
    compare(*by_yaml)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("first", "then"), [("embedded", "detectron2"), ("detectron2", "embedded")])
def test_each_resumes_a_run_of_the_other_as_if_never_stopped(recipe_runs, first, then, tmp_path):
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    for name in ("config.yaml", "model_0000009.pth"):
        shutil.copy(recipe_runs[first] / name, stopped)
    (stopped / "last_checkpoint").write_text("model_0000009.pth")
    resumed = train(then, recipe_runs[first] / "config.yaml", stopped, resume=True)
    # metrics.json has medians over 20 iterations, which a resumed run begins anew; the weights know every loss.
    assert [line["iteration"] for line in metrics(resumed)][:10] == list(range(10, 20))
    same_weights(resumed, recipe_runs[first])


def compare(one: Path, other: Path) -> None:
    assert len(metrics(one)) >= 20
    assert metrics(one) == metrics(other)
    assert tensorboard_tags(one) == tensorboard_tags(other)
    assert "total_loss" in tensorboard_tags(one)
    same_weights(one, other)


def same_weights(one: Path, other: Path) -> None:
    weights = [torch.load(folder / "model_final.pth")["model"] for folder in (one, other)]
    assert list(weights[0]) == list(weights[1])
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
