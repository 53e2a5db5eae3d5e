# SPDX-License-Identifier: Apache-2.0
"""The generated shapes dataset."""

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest

from dino_d2.data import shapes as shapes_module
from dino_d2.data.check import DatasetError
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.data.shapes import Recipe, generate, shapes
from dino_d2.data.shapes_drawing import CLASSES, _Canvas, _draw_object, draw_image
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from tests.processes import run_python

SMALL = Recipe(train=4, val=2, size=64)


def _files(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def drawn():
    return [draw_image(np.random.default_rng([5, k]), 128) for k in range(500)]


def test_same_seed_same_files(tmp_path):
    for folder, recipe in (("a", SMALL), ("b", SMALL), ("seed", Recipe(4, 2, 64, seed=1)), ("more", Recipe(6, 2, 64))):
        generate(tmp_path / folder, recipe)
    first = _files(tmp_path / "a")
    assert len(first) == 6 + 2 + 1
    assert first == _files(tmp_path / "b")
    other = _files(tmp_path / "seed")
    assert all(other[name] != digest for name, digest in first.items())
    more = _files(tmp_path / "more")  # an image does not depend on how many there are
    assert all(more[name] == digest for name, digest in first.items() if name.endswith(".png"))
    assert len({digest for name, digest in first.items() if name.endswith(".png")}) == 6


def test_the_drawing_has_not_changed_under_its_version():
    """If this fails on purpose: give `Recipe.version` the next number, and put the new boxes here."""
    _, found = draw_image(np.random.default_rng([0, 0, 1]), 128)
    assert Recipe.version == 2
    assert [CLASSES[shape.class_index] for shape in found] == ["ring", "circle", "star"]
    expected = [(54.27, 0.0, 73.73, 77.55), (26.73, 14.92, 65.8, 76.82), (66.87, 38.02, 29.22, 33.46)]
    np.testing.assert_allclose([shape.box for shape in found], expected, atol=0.02)


def test_boxes_are_inside_and_not_empty(drawn):
    for pixels, found in drawn:
        assert pixels.shape == (128, 128, 3)
        assert pixels.dtype == np.uint8
        for shape in found:
            x, y, width, height = shape.box
            assert x >= 0
            assert y >= 0
            assert x + width <= 128.001
            assert y + height <= 128.001
            assert min(width, height) > 4


def test_contents(drawn):
    """Balanced classes, all sizes, 1 to 5 objects, some empty images, some crowds."""
    objects = [shape for _, found in drawn for shape in found if not shape.is_crowd]
    shares = Counter(shape.class_index for shape in objects)
    assert all(0.17 < shares[k] / len(objects) < 0.23 for k in range(len(CLASSES)))
    areas = np.array([shape.box[2] * shape.box[3] for shape in objects])
    assert (areas < 32**2).mean() > 0.2
    assert ((areas >= 32**2) & (areas < 96**2)).mean() > 0.3
    assert (areas >= 96**2).sum() > 5
    counts = Counter(sum(not shape.is_crowd for shape in found) for _, found in drawn)
    assert set(counts) == set(range(6))
    assert 0.02 < counts[0] / len(drawn) < 0.09
    crowds = [sum(shape.is_crowd for shape in found) for _, found in drawn]
    assert max(crowds) == 1
    assert 0.02 < np.mean(crowds) < 0.11


@pytest.mark.parametrize("seed", range(40))
def test_the_box_is_where_the_paint_is(seed):
    rng = np.random.default_rng(seed)
    canvas = _Canvas(rng, 128)
    before = canvas.pixels.copy()
    shape = _draw_object(rng, canvas, radius=rng.uniform(10, 50))
    painted = np.abs(canvas.pixels - before).max(axis=2) > 4
    ys, xs = np.flatnonzero(painted.any(axis=1)), np.flatnonzero(painted.any(axis=0))
    x, y, width, height = shape.box
    np.testing.assert_allclose([x, y, x + width, y + height], [xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], atol=1.6)


def test_shapes_registers_both_splits(tmp_path):
    names = {split: shapes(split, tmp_path / "s", train=4, val=2, size=64) for split in ("train", "val")}
    assert names["train"] == shapes("train", tmp_path / "s", train=4, val=2, size=64)
    for split, count in (("train", 4), ("val", 2)):
        assert MetadataCatalog.get(names[split]).thing_classes == list(CLASSES)
        records = DatasetCatalog.get(names[split])
        assert len(records) == count
        assert DetrDatasetMapper([])(records[0])["image"].shape == (3, 64, 64)
    with pytest.raises(ValueError, match="Unknown split 'test'"):
        shapes("test", tmp_path / "s")


def test_nothing_is_overwritten(tmp_path):
    generate(tmp_path / "s", SMALL)
    with pytest.raises(DatasetError, match=r"was generated with .*'size': 64.*'size': 32"):
        generate(tmp_path / "s", Recipe(4, 2, 32))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(DatasetError, match="photos exists and is not a shapes dataset"):
        generate(tmp_path / "photos", SMALL)
    (tmp_path / "empty").mkdir()
    generate(tmp_path / "empty", SMALL)
    assert (tmp_path / "empty" / "recipe.json").is_file()


def test_several_at_once_draw_once(tmp_path, monkeypatch):
    written = []
    write_split = shapes_module._write_split
    monkeypatch.setattr(
        shapes_module, "_write_split", lambda *arguments: (written.append(arguments[1]), write_split(*arguments))
    )
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: generate(tmp_path / "s", SMALL), range(4)))
    assert written == ["train", "val"]


def test_another_machine_was_first(tmp_path, monkeypatch):
    """Without locks, the folder may appear while one's own is being drawn."""
    write_split = shapes_module._write_split

    def overtaken(root, split, recipe):
        write_split(root, split, recipe)
        if not (tmp_path / "s").exists():
            with monkeypatch.context() as context:
                context.setattr(shapes_module, "_write_split", write_split)
                context.setattr(shapes_module, "file_lock", lambda _: nullcontext())
                generate(tmp_path / "s", SMALL)

    monkeypatch.setattr(shapes_module, "_write_split", overtaken)
    generate(tmp_path / "s", SMALL)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["s"]


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(shapes_module, "draw_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "s", SMALL)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    generate(tmp_path / "s", SMALL)


def test_command_line(tmp_path):
    command = ["-m", "dino_d2.data.shapes", "--root", tmp_path / "s", "--train", "3", "--val", "1"]
    done = run_python(*command)
    assert "3 + 1 images in" in done.stdout
    assert len(json.loads((tmp_path / "s" / "annotations" / "shapes_train.json").read_text())["images"]) == 3
    again = run_python(*command, "--size", "64")
    assert again.returncode == 2
    assert "was generated with" in again.stderr
    assert "Traceback" not in again.stderr
