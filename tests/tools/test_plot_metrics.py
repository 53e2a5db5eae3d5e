# SPDX-License-Identifier: Apache-2.0
"""Curves of metrics.json, and AP and precision-recall of COCO results, by the tools that draw them."""

import csv
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


@pytest.fixture(scope="module")
def precision_recall():
    return load("plot_precision_recall")


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


@pytest.fixture
def results(tmp_path):
    """Two ants, one found at IoU 1 and one missed; a bee found with IoU 0.6; no cat."""
    images = [{"id": 1, "width": 100, "height": 100, "file_name": "1.png"}]
    boxes = [(3, [0, 0, 10, 10]), (3, [50, 50, 20, 20]), (8, [0, 50, 10, 10])]
    truth = {
        "images": images,
        "categories": [{"id": 3, "name": "ant"}, {"id": 8, "name": "bee"}, {"id": 9, "name": "cat"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": k, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for i, (k, b) in enumerate(boxes)
        ],
    }
    found = [(3, [0, 0, 10, 10], 0.9), (8, [0, 50, 10, 6], 0.8)]
    found = [{"image_id": 1, "category_id": k, "bbox": b, "score": s} for k, b, s in found]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    return tmp_path / "found.json", tmp_path / "truth.json"


def test_ap_of_each_class_is_coco_ap(precision_recall, results, tmp_path, capsys):
    precision_recall.main([*map(str, results), "--output", str(tmp_path / "out")])
    with open(tmp_path / "out" / "per_class_ap.csv") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    half = 100 * 51 / 101  # one of two found, at all 51 recalls up to 0.5
    assert [float(rows["ant"][name]) for name in ("AP", "AP50", "AP75")] == pytest.approx([half] * 3)
    assert [float(rows["bee"][name]) for name in ("AP", "AP50", "AP75")] == pytest.approx([30.0, 100.0, 0.0])
    assert np.isnan(float(rows["cat"]["AP"]))
    assert float(rows["mean"]["AP50"]) == pytest.approx((half + 100) / 2)
    assert (rows["ant"]["objects"], rows["ant"]["detections"]) == ("2", "1")
    assert "bee" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "precision_recall.png") as picture:
        assert picture.width > 800
    mean, single = precision_recall.plot(precision_recall.evaluate(*results)).axes
    (ant,) = [line for line in single.get_lines() if line.get_label().startswith("ant")]
    assert (np.asarray(ant.get_ydata()) > 0).sum() == 51
    assert len(mean.get_lines()) == 10


def test_more_objects_of_a_class_than_ap_counts(precision_recall, tmp_path, capsys):
    boxes = [[k % 20 * 50, k // 20 * 50, 40, 40] for k in range(300)]
    common = [{"image_id": 1, "category_id": 3, "bbox": box} for box in boxes]
    truth = {
        "images": [{"id": 1, "width": 1000, "height": 1000, "file_name": "1.png"}],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [one | {"id": k, "area": 1600, "iscrowd": 0} for k, one in enumerate(common, start=1)],
    }
    files = tmp_path / "found.json", tmp_path / "truth.json"
    files[0].write_text(json.dumps([one | {"score": 1 - k / 1000} for k, one in enumerate(common)]))
    files[1].write_text(json.dumps(truth))
    precision_recall.main([*map(str, files)])
    shown = capsys.readouterr()
    assert "33.7" in shown.out
    assert "warning: an image has 300 objects of one class" in shown.err
    precision_recall.main([*map(str, files), "--max-dets-per-image", "300"])
    shown = capsys.readouterr()
    assert "100.0" in shown.out
    assert shown.err == ""


def test_results_of_another_dataset(precision_recall, results, tmp_path):
    found, truth = results
    detections = json.loads(found.read_text())
    found.write_text(json.dumps([{**detection, "image_id": 77} for detection in detections]))
    with pytest.raises(SystemExit, match=r"1 images that are not in .* first is image id 77"):
        precision_recall.main([str(found), str(truth)])
    found.write_text("[]")
    with pytest.raises(SystemExit, match="not a list of detections, or it is empty"):
        precision_recall.main([str(found), str(truth)])
    with pytest.raises(SystemExit, match=r"there is no nothing\.json"):
        precision_recall.main(["nothing.json", str(truth)])


@pytest.mark.parametrize(
    ("results", "annotations", "words"),
    [
        ("no json", "{}", "results is not a JSON file"),
        ('[{"image_id": 1}]', "no json", "annotations is not a JSON file"),
        ('[{"image_id": 1}]', "{}", "annotations is not ground truth"),
        ("{}", '{"images": [], "annotations": [], "categories": []}', "results is not a list of detections"),
    ],
)
def test_files_of_something_else_are_met_with_one_message(precision_recall, tmp_path, results, annotations, words):
    for name, content in (("results", results), ("annotations", annotations)):
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit, match=f"error: .*{words}"):
        precision_recall.main([str(tmp_path / "results"), str(tmp_path / "annotations")])
