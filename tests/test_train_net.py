# SPDX-License-Identifier: Apache-2.0
"""The command line as a user meets it, on a handful of generated images."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.paths import ROOT
from tests.processes import run_python
from tests.small_data import generate_shapes

pytestmark = pytest.mark.large_memory  # the run that most of them read is started by a Python of its own

RECIPE = "configs/dino/dino_tiny_shapes.py"


def train_net(*arguments: str) -> subprocess.CompletedProcess:
    return run_python("train_net.py", "--config-file", RECIPE, *arguments)


def losses(folder: Path) -> dict[int, dict]:
    """The training lines of metrics.json by iteration, without times."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    timed = ("time", "data_time", "rank_data_time", "eta_seconds")
    return {
        line["iteration"]: {k: v for k, v in line.items() if not k.startswith("bbox/") and k not in timed}
        for line in lines
        if "total_loss" in line
    }


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    """Overrides for a run of seconds: eight tiny images and a tiny model."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return [
        *generate_shapes(root, train=8, val=4),
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "model.detector.encoder.num_layers=1",
        "model.detector.decoder.num_layers=2",
        "train.log_period=1",
        "train.num_pictures=2",
    ]


@pytest.fixture(scope="module")
def finished_run(small_data, tmp_path_factory):
    """Six iterations, evaluated, by a Python that has imported nothing before."""
    folder = tmp_path_factory.mktemp("run") / "out"
    options = [*small_data, "train.max_iter=6", "train.eval_period=3", f"train.output_dir={folder}"]
    run = subprocess.run(
        [sys.executable, "train_net.py", "--config-file", RECIPE, *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return folder, run.stdout


def test_a_run_leaves_what_the_readme_says(finished_run):
    folder, _ = finished_run
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "metrics.json", "model_final.pth", "last_checkpoint", "predictions.png", "log.txt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    last = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    assert 0 <= last["bbox/AP"] <= 100


def test_a_checkpoint_says_what_its_classes_are(finished_run):
    saved = torch.load(finished_run[0] / "model_final.pth", weights_only=True)
    names = ["circle", "square", "triangle", "star", "ring"]
    assert saved["categories"] == [{"id": k + 1, "name": name} for k, name in enumerate(names)]


def test_a_run_ends_with_the_scores_and_where_things_lie(finished_run):
    folder, output = finished_run
    end = "\n".join(output.splitlines()[-4:])
    for word in ("AP ", "AP50", "AP75", "minutes", "predictions.png", "metrics.json", "model_final.pth", str(folder)):
        assert word in end, f"{word} is missing in:\n{end}"


def test_the_same_seed_gives_the_same_losses_to_the_last_bit(small_data, finished_run, tmp_path):
    folder, _ = finished_run
    again = tmp_path / "again"
    run = train_net(*small_data, "train.max_iter=6", "train.eval_period=3", f"train.output_dir={again}")
    assert run.returncode == 0, run.stdout + run.stderr
    assert losses(again) == losses(folder)
    other = tmp_path / "other"
    train_net(*small_data, "train.max_iter=2", "train.eval_period=0", f"train.output_dir={other}", "train.seed=1")
    assert losses(other)[0]["total_loss"] != losses(folder)[0]["total_loss"]


def test_evaluation_of_the_checkpoint_gives_the_ap_of_training(small_data, finished_run, tmp_path):
    folder, _ = finished_run
    weights = f"train.init_checkpoint={folder}/model_final.pth"
    run = train_net("--eval-only", *small_data, weights, f"train.output_dir={tmp_path}")
    assert run.returncode == 0, run.stdout + run.stderr
    table = [line for line in run.stdout.splitlines() if "copypaste: " in line][-1]
    ap = float(table.split("copypaste: ")[1].split(",")[0])
    last = json.loads((folder / "metrics.json").read_text().splitlines()[-1])
    assert ap == pytest.approx(last["bbox/AP"], abs=1e-3)


def test_resume_goes_on_where_the_checkpoint_was_written(small_data, tmp_path):
    common = [*small_data, f"train.output_dir={tmp_path}", "train.eval_period=0"]
    assert train_net(*common, "train.max_iter=2").returncode == 0
    run = train_net("--resume", *common, "train.max_iter=4")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Starting training from iteration 2" in run.stdout
    assert list(losses(tmp_path)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config-file", "configs/dino/nothing.py"], "there is no config file 'configs/dino/nothing.py'"),
        (["--eval-only"], "--eval-only needs weights"),
        (["--eval-only", "train.init_checkpoint=none.pth"], "init_checkpoint=none.pth: there is no such file"),
        (["train.seed=1", "--resume"], "--resume comes after a key=value argument"),
    ],
)
def test_mistakes_are_met_with_one_message(arguments, message, small_data, tmp_path):
    run = train_net(*arguments, *small_data, f"train.output_dir={tmp_path}")
    assert run.returncode != 0
    assert message in run.stderr
    assert "Traceback" not in run.stderr
