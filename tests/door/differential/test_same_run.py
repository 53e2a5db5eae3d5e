"""A run of train_net.py under each engine, in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[3]
TIMES = {"time", "data_time", "rank_data_time", "eta_seconds"}
SHORT = [
    "train.max_iter=6",
    "train.log_period=1",
    "train.eval_period=0",
    "train.num_pictures=0",
    "train.checkpointer.period=3",
    "dataloader.train.num_workers=2",
    "dataloader.train.total_batch_size=2",
    "+dataloader.evaluator.use_fast_impl=False",
]


def train(engine: str, config: Path, output: Path, *overrides: str) -> Path:
    environment = os.environ | {"DINO_D2_ENGINE": engine, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-W", "ignore", "train_net.py", "--config-file", str(config)]
    command += [*overrides, f"train.output_dir={output}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_same_losses_weights_and_ap(tmp_path):
    """Both engines from the recipe, and each from the config.yaml which the other has left."""
    recipe = ROOT / "configs/dino/dino_tiny_shapes.py"
    shapes = f"dataloader.train.dataset.names={{root: {tmp_path / 'shapes'}, train: 30, val: 6}}"
    short = [shapes, "dataloader.test.dataset.names={train: 30, val: 6}", *SHORT]
    embedded = train("embedded", recipe, tmp_path / "embedded", *short)
    real = train("detectron2", recipe, tmp_path / "real", *short)
    compare(embedded, real)
    # yaml sorts the keys, so parts are made in another order, with other random weights than from the recipe
    real_by_yaml = train("detectron2", embedded / "config.yaml", tmp_path / "real_by_yaml")
    embedded_by_yaml = train("embedded", real / "config.yaml", tmp_path / "embedded_by_yaml")
    compare(real_by_yaml, embedded_by_yaml)


def compare(one: Path, other: Path) -> None:
    assert len(metrics(one)) >= 6
    assert metrics(one) == metrics(other)
    weights = [torch.load(folder / "model_final.pth")["model"] for folder in (one, other)]
    assert list(weights[0]) == list(weights[1])
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
