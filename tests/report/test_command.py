# SPDX-License-Identifier: Apache-2.0
"""The command makes a page and the same numbers as json, of result files."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.checkpoint.score_thresholds import read_score_thresholds
from dino_d2.evaluation.duplicates import DuplicateEvaluator
from dino_d2.report.command import main
from dino_d2.report.measures import Settings, measure
from tests.coco_results import random_data, read, results_of, truth_of, write
from tests.evaluation.test_duplicates import found as instances_found
from tests.evaluation.test_duplicates import image as instances_image

#: Tags that have no end.
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The elements of a page; tags that are not closed in order fail."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def values(self, attribute):
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def report(folder, truth, results, *more):
    main([*sources(folder, truth, results), "--output", str(folder / "out"), *more])
    html = (folder / "out" / "report.html").read_text(encoding="utf-8")
    return Page(html), json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))


def sources(folder, truth, results):
    found, annotations = write(folder, truth, results)
    return ["--results", str(found), "--annotations", str(annotations)]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(1, 13):
        Image.fromarray(np.full((200, 200, 3), 40 * (i % 5), np.uint8)).save(folder / f"{i}.png")
    return folder


def test_ap_by_class(tmp_path, capsys):
    """Two ants, one found at IoU 1 and one missed; a bee found with IoU 0.6; no cat."""
    truth = truth_of([(1, 3, [0, 0, 10, 10]), (1, 3, [50, 50, 20, 20]), (1, 4, [0, 50, 10, 10])])
    page, numbers = report(tmp_path, truth, results_of([(1, 3, [0, 0, 10, 10], 0.9), (1, 4, [0, 50, 10, 6], 0.8)]))
    ant, bee, cat = numbers["classes"]
    half = 100 * 51 / 101  # one of two found, at all 51 recalls up to 0.5
    assert [ant[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([half] * 3)
    assert [bee[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([30.0, 100.0, 0.0])
    assert cat["AP"] is None
    assert numbers["overall"]["AP50"] == pytest.approx((half + 100) / 2)
    assert (ant["id"], ant["objects"], ant["detections"]) == (3, 2, 1)
    assert ant["best"]["f1"] == pytest.approx(2 / 3)
    assert numbers["overall"]["best"] == numbers["overall"]["at_threshold"]
    assert numbers["overall"]["best"]["f1"] == pytest.approx(4 / 5)
    assert numbers["confusion"] == [
        {"object": "ant", "detected_as": "ant", "count": 1},
        {"object": "ant", "detected_as": None, "count": 1},
        {"object": "bee", "detected_as": "bee", "count": 1},
    ]
    assert "No object is detected as one of another class." in page.text
    assert re.search(r"bee +30\.0 +100\.0 +0\.0 +1 +1", capsys.readouterr().out)


def test_the_page_stands_alone_and_says_the_numbers(tmp_path, images):
    truth, results = random_data(0)
    page, numbers = report(tmp_path, truth, results, "--images", str(images), "--pictures", "3")
    addresses = page.values("src")
    assert len(addresses) == 3 + 2 * 9  # charts, and two pictures of each mistake
    assert all(address.startswith("data:image/") for address in addresses)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}
    assert not page.values("href")
    sizes = set()
    for address in addresses[3:]:
        with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
            sizes.add(max(picture.size))
    assert sizes == {480}
    for name in ("AP", "AP50", "APs"):
        assert f"{name}{numbers['overall'][name]:.1f}" in page.text
    for name in ("f1", "precision", "recall"):
        assert f"{numbers['overall']['at_threshold'][name]:.3f}" in page.text
    assert {"viewport"} <= set(page.values("name"))
    confused = max(
        numbers["confusion"],
        key=lambda one: (
            one["count"] * (one["object"] not in (None, one["detected_as"]) and one["detected_as"] is not None)
        ),
    )
    assert (
        f"most frequent confusions:\n\nobjectdetected ascount\n{confused['object']}{confused['detected_as']}"
        in page.text
    )


def test_classes_and_files_of_any_name(tmp_path):
    name = '<script>alert("$x$")</script>'
    truth = truth_of([(1, 3, [0, 0, 10, 10])], (name, "_hidden", "$\\frac{$"))
    truth["images"][0]["file_name"] = "<b>.png"
    page, numbers = report(tmp_path, truth, results_of([(1, 3, [0, 0, 10, 10], 0.9)]))
    assert name in page.text
    assert "script" not in {tag for tag, _ in page.elements}
    assert numbers["classes"][0]["name"] == name


def test_a_given_threshold(tmp_path):
    truth, results = random_data(1)
    _, numbers = report(tmp_path, truth, results, "--score-threshold", "0.8", "--iou-threshold", "0.75")
    assert (numbers["score_threshold"], numbers["score_threshold_is"], numbers["iou_threshold"]) == (0.8, "given", 0.75)
    assert numbers["overall"]["at_threshold"]["threshold"] == 0.8
    assert numbers["overall"]["best"]["threshold"] < 0.8
    at_half = measure(*read(tmp_path, truth, results), Settings())
    assert numbers["overall"]["best"]["f1"] < at_half.best.f1


def test_duplicates_are_those_of_the_evaluator(tmp_path):
    truth, results = random_data(2)
    measures = measure(*read(tmp_path, truth, results), Settings(score_threshold=0.3))
    evaluator = DuplicateEvaluator()
    for i in range(1, 13):
        objects = [a for a in truth["annotations"] if a["image_id"] == i and not a["iscrowd"]]
        found = [r for r in results if r["image_id"] == i]
        corners = [[[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in some)] for some in (objects, found)]
        image = instances_image(corners[0], [a["category_id"] for a in objects], (200, 200), i)
        classes = [r["category_id"] for r in found]
        output = instances_found(corners[1], [r["score"] for r in found], classes, (200, 200))
        evaluator.process([image], [output])
    expected = evaluator.evaluate()["duplicates"]
    assert 0 < expected["rate"] < 100
    assert measures.duplicates == pytest.approx(expected)


def test_nothing_is_right(tmp_path, images):
    truth = truth_of([(1, 3, [0, 0, 10, 10])])
    page, numbers = report(tmp_path, truth, results_of([(1, 3, [90, 90, 10, 10], 0.9)]), "--images", str(images))
    assert numbers["overall"]["best"] is None
    assert numbers["score_threshold"] == 0.3
    assert "assumed, because no detection is right" in page.text


def test_no_objects_at_all(tmp_path):
    page, numbers = report(tmp_path, truth_of([]), results_of([(1, 3, [90, 90, 10, 10], 0.9)]))
    assert numbers["overall"]["AP"] is None
    assert "There are no objects." in page.text


def test_many_classes_share_a_row(tmp_path):
    box = [0.0, 0, 20, 20]
    names = tuple(f"class {k}" for k in range(40))
    truth = truth_of([(1, 3 + k, [*box[:2], 20, 20 + k]) for k in range(40)], names)
    page, numbers = report(tmp_path, truth, results_of([(1, 3 + k, box, 0.9) for k in range(20)]))
    assert "10 other classes" in page.text
    assert "wide upright" in page.values("class")
    assert len(numbers["classes"]) == 40


def test_an_image_that_cannot_be_read_is_left_out(tmp_path, images, caplog):
    truth, results = random_data(0)
    (images / "1.png").write_text("no picture")
    (images / "2.png").unlink()
    page, _ = report(tmp_path, truth, results, "--images", str(images), "--pictures", "20")
    assert "1.png is not drawn" in caplog.text
    assert "2.png is not drawn" in caplog.text
    assert len(re.findall(r"\d+\.png: wrong detections", page.text)) > 5


def test_more_objects_of_a_class_than_ap_counts(tmp_path, capsys):
    boxes = [[k % 20 * 50, k // 20 * 50, 40, 40] for k in range(150)]
    truth = truth_of([(1, 3, box) for box in boxes], size=1000)
    results = results_of([(1, 3, box, 1 - k / 1000) for k, box in enumerate(boxes)])
    _, numbers = report(tmp_path, truth, results)
    assert numbers["overall"]["AP"] == pytest.approx(100 * 67 / 101)
    assert "warning: an image has 150 objects of one class" in capsys.readouterr().err
    _, numbers = report(tmp_path, truth, results, "--max-dets-per-image", "150")
    assert numbers["overall"]["AP"] == pytest.approx(100)
    assert capsys.readouterr().err == ""


def test_images_joined_by_name_are_noted(tmp_path, capsys):
    truth = truth_of([(2, 3, [0, 0, 10, 10])])
    found = results_of([(1, 3, [0, 0, 10, 10], 0.9)])
    page, numbers = report(tmp_path, truth, [one | {"file_name": "2.png"} for one in found])
    assert numbers["overall"]["AP"] == pytest.approx(100)
    assert "images are joined by file name" in capsys.readouterr().err
    assert "images are joined by file name" in page.text


def test_annotations_that_are_left_out_are_noted(tmp_path, capsys):
    truth = truth_of([(1, 3, [0, 0, 10, 10]), (1, 3, [500, 500, 10, 10])])
    page, numbers = report(tmp_path, truth, results_of([(1, 3, [0, 0, 10, 10], 0.9)]))
    assert numbers["objects"] == 1
    assert "outside its image" in capsys.readouterr().err
    assert "outside its image" in page.text


def test_thresholds_are_stored_in_a_checkpoint(tmp_path, capsys):
    truth, results = random_data(0)
    names = [category["name"] for category in truth["categories"]]
    file = tmp_path / "model_final.pth"
    torch.save({"model": {"a": torch.zeros(1)}, "categories": truth["categories"]}, file)
    _, numbers = report(tmp_path, truth, results, "--store-threshold", str(file))
    stored = read_score_thresholds(str(file))
    assert stored.overall == numbers["overall"]["best"]["threshold"]
    assert stored.classes == {one["name"]: one["best"]["threshold"] for one in numbers["classes"] if one["best"]}
    assert list(stored.classes) == names[:3]  # nothing of the last class is right
    assert f"stored   {file}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no detection is right"):
        report(tmp_path, truth_of([]), results_of([(1, 3, [0, 0, 9, 9], 0.9)]), "--store-threshold", str(file))
    assert read_score_thresholds(str(file)) == stored


@pytest.mark.parametrize(("arguments", "words"), [
    (["--output", "x"], "give either --results and --annotations, or --config-file and --weights"),
    (["--results", "a", "--output", "x"], "give either .*, not --results"),
    (["--results", "a", "--annotations", "b", "--weights", "c", "--output", "x"], "give either"),
    (["--results", "a", "--annotations", "b", "--output", "x", "--store-threshold"], "name the checkpoint"),
    (["--config-file", "a", "--weights", "b", "--output", "x", "--store-threshold", "c"], "those of --weights"),
    (["--config-file", "a", "--weights", "b", "--images", "c", "--output", "x"], "--images is for --results"),
    (["--results", "a", "--annotations", "b", "--images", "c", "--output", "x"], "there is no such folder"),
    (["--results", "a", "--annotations", "b", "--output", "x"], "b cannot be read"),
    (["--results", "a", "--annotations", "b", "--output", "x", "--iou-threshold", "0.3"], "--iou-threshold 0.3"),
    (["--results", "a", "--annotations", "b", "--output", "x", "--score-threshold", "30"], "--score-threshold must"),
    (["--results", "a", "--annotations", "b", "--output", "x", "--pictures", "-1"], "--pictures must be 0 or more"),
])  # fmt: skip
def test_mistakes_of_the_user_are_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"error: .*{words}"):
        main(arguments)
