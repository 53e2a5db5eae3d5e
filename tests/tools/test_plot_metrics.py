# SPDX-License-Identifier: Apache-2.0
"""Curves of metrics.json."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.paths import ROOT


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def metrics():
    return load("plot_metrics")


def run_folder(folder: Path, scale: float = 1.0) -> Path:
    """A run that was resumed at iteration 20, so that 29 was written twice."""
    folder.mkdir(parents=True)
    lines = [
        {"iteration": i, "total_loss": v * scale, "lr": 0.1, "loss_class": v, "loss_class_dn": v, "grad_norm": 1.0}
        for i, v in ((9, 9.0), (19, 5.0), (29, 4.0), (29, 3.0))
    ]
    lines.append({"iteration": 29, "bbox/AP": 40.0, "bbox/AP50": 60.0})
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def line_of(axes, label: str) -> list[tuple]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return list(zip(*map(np.ndarray.tolist, map(np.asarray, line.get_data())), strict=True))


def test_curves_are_those_of_the_file_and_a_resumed_run_has_no_loop(metrics, tmp_path):
    curves = metrics.read(run_folder(tmp_path / "run"))
    assert curves["total_loss"] == [(9, 9.0), (19, 5.0), (29, 3.0)]
    loss, score, parts, *_ = metrics.plot({"run": curves}).axes
    assert line_of(loss, "run") == [(9, 9.0), (19, 5.0), (29, 3.0)]
    assert line_of(score, "AP") == [(29, 40.0)]
    assert line_of(score, "AP50") == [(29, 60.0)]
    assert line_of(parts, "loss_class_dn") == [(9, 9.0), (19, 5.0), (29, 3.0)]


def test_runs_are_compared_in_one_picture(metrics, tmp_path, capsys):
    folders = [run_folder(tmp_path / name / "out", scale) for name, scale in (("a", 1), ("b", 2))]
    metrics.main([*map(str, folders), "--output", str(tmp_path / "new" / "both.png")])
    with Image.open(tmp_path / "new" / "both.png") as picture:
        assert picture.width > 800
    loss, score, *_ = metrics.plot(dict(zip(metrics.names_of(folders), map(metrics.read, folders), strict=True))).axes
    assert line_of(loss, "b/out")[0] == (9, 18.0)
    assert line_of(score, "AP, a/out") == [(29, 40.0)]


def test_one_run_is_drawn_into_its_folder(metrics, tmp_path, capsys):
    folder = run_folder(tmp_path / "run")
    metrics.main([str(folder)])
    assert capsys.readouterr().out.strip() == str(folder / "curves.png")
    assert (folder / "curves.png").is_file()


def test_a_folder_without_metrics(metrics, tmp_path):
    with pytest.raises(SystemExit, match=r"there is no .*metrics\.json: give the output folder"):
        metrics.main([str(tmp_path)])
    folder = run_folder(tmp_path / "run")
    with pytest.raises(SystemExit, match="the same run is given twice"):
        metrics.main([str(folder), str(folder)])
    (folder / "metrics.json").write_text('{"iteration": 1}\n{"itera')
    with pytest.raises(SystemExit, match="line 2"):
        metrics.main([str(folder)])
