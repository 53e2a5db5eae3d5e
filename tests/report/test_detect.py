# SPDX-License-Identifier: Apache-2.0
"""The report of a config and weights: first the evaluation, then the page; the threshold goes into the weights."""

import json
import logging
import re

import pytest
import torch

from dino_d2.checkpoint.score_thresholds import read_score_thresholds
from dino_d2.report.command import main
from tests.in_process import run_train_net
from tests.loggers import loggers_restored
from tests.small_data import THIN, generate_shapes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one iteration, whose best detections become the ground truth, so that some are right."""
    folder = tmp_path_factory.mktemp("run")
    overrides = [
        *generate_shapes(folder / "shapes", train=4, val=4),
        *THIN,
        "train.num_pictures=0",
        f"train.output_dir={folder / 'out'}",
    ]
    run_train_net("--config-file", "configs/dino/dino_tiny_shapes.py", *overrides, "train.max_iter=1")
    found = json.loads((folder / "out" / "coco_instances_results.json").read_text())
    file = folder / "shapes" / "annotations" / "shapes_val.json"
    truth = json.loads(file.read_text())
    objects = [
        {**one, "id": n, "area": one["bbox"][2] * one["bbox"][3], "iscrowd": 0} for n, one in enumerate(found, 1)
    ]
    file.write_text(json.dumps(truth | {"annotations": objects[::20]}))
    return folder / "out"


@pytest.mark.slow
def test_the_numbers_are_those_of_the_evaluation_and_the_run_resumes(run, tmp_path, caplog):
    before = torch.load(run / "model_final.pth", weights_only=True)
    files = ["--config-file", str(run / "config.yaml"), "--weights", str(run / "model_final.pth")]
    with loggers_restored():
        main([*files, "--output", str(tmp_path), "--pictures", "1", "--store-threshold"])
    numbers = json.loads((tmp_path / "report.json").read_text())
    logged = re.findall(r"copypaste: ([\d.,na]+)$", (tmp_path / "log.txt").read_text(), re.M)
    assert numbers["overall"]["AP"] > 1
    names = ("AP", "AP50", "AP75", "APs")
    assert list(map(float, logged[-1].split(",")))[:4] == pytest.approx(
        [numbers["overall"][n] for n in names], abs=6e-5
    )
    assert (tmp_path / "report.html").read_text().count("<img ") == 3 + 2 * 3

    assert read_score_thresholds(str(run / "model_final.pth")).overall == numbers["overall"]["best"]["threshold"]
    with caplog.at_level(logging.WARNING):
        run_train_net("--config-file", str(run / "config.yaml"), "--resume", "train.max_iter=2")
    after = torch.load(run / "model_final.pth", weights_only=True)
    assert after["trainer"]["iteration"] == 1
    assert after.keys() == before.keys()  # other weights have no threshold
    assert "does not continue exactly" not in caplog.text
