# SPDX-License-Identifier: Apache-2.0
"""Pictures of a dataset before training, and of the first batch of a run."""

import numpy as np
import pytest
import torch
from PIL import Image

from dino_d2.data.check.__main__ import main
from dino_d2.data.shapes import shapes
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.detectron2.structures import Boxes, BoxMode, Instances
from dino_d2.visualize import histograms, sheet_of_batch, sheet_of_labels
from dino_d2.visualize.style import colour_of
from tests.data.test_custom_data import roboflow

NAMES = ["circle", "square", "triangle", "star", "ring"]


@pytest.fixture(scope="module")
def dicts(tmp_path_factory):
    name = shapes("val", tmp_path_factory.mktemp("data") / "shapes", train=1, val=5, size=64)
    return DatasetCatalog.get(name)


def has_colour(picture: Image.Image, class_index: int) -> bool:
    return bool((np.asarray(picture) == colour_of(class_index)).all(axis=-1).any())


def test_labels_are_drawn(dicts):
    one = {**dicts[0], "annotations": dicts[0]["annotations"][:1]}
    drawn = one["annotations"][0]["category_id"]
    sheet = sheet_of_labels([one], NAMES)
    assert has_colour(sheet, drawn)
    assert not has_colour(sheet, (drawn + 1) % 5)
    assert sheet_of_labels(dicts, NAMES).width > 2 * sheet.width
    assert sheet_of_labels([{**one, "annotations": []}], NAMES).width == sheet.width


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_a_batch_is_drawn_as_the_model_gets_it(image_format):
    instances = Instances((40, 60))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.tensor([[5.0, 5, 30, 35]])), torch.tensor([3])
    red = torch.tensor([200, 0, 0] if image_format == "RGB" else [0, 0, 200], dtype=torch.uint8)
    mapped = {"image": red.view(3, 1, 1).expand(3, 40, 60).contiguous(), "instances": instances, "image_id": 7}
    for names in (NAMES, None):
        sheet = sheet_of_batch([mapped, {**mapped, "instances": instances[:0]}], image_format, names)
        assert has_colour(sheet, 3)
        assert (np.asarray(sheet) == (200, 0, 0)).all(axis=-1).any()


def panels(dataset_dicts, names=NAMES):
    figure = histograms(dataset_dicts, names)
    figure.canvas.draw()
    return figure.axes


def test_histograms_count_objects_but_no_crowds(dicts):
    box = {"bbox": [0, 0, 16, 4], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 2, "iscrowd": 0}
    one = {**dicts[0], "annotations": [box, {**box, "category_id": 4}, box, {**box, "iscrowd": 1}]}
    of_classes, of_sizes, of_images, of_files = panels([one, {**one, "annotations": []}])
    assert [bar.get_width() for bar in of_classes.patches] == [2, 1, 0, 0, 0]
    assert [label.get_text() for label in of_classes.get_yticklabels()][:2] == ["triangle", "ring"]
    assert sum(bar.get_height() for bar in of_sizes.patches) == 3
    assert [bar.get_height() for bar in of_images.patches] == [1, 0, 0, 1]
    assert "all are equal" in of_files.get_title()


def test_histograms_of_many_classes_and_of_none(dicts):
    of_classes, *_ = panels([{**one, "annotations": []} for one in dicts], [f"class {k}" * 9 for k in range(90)])
    assert len(of_classes.patches) == 40
    assert "50 more classes" in of_classes.get_title()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return roboflow(tmp_path / "data")


def check(data, *arguments):
    return main([str(data / "train/_annotations.coco.json"), str(data / "train"), *map(str, arguments)])


def test_the_check_writes_them(data, tmp_path, capsys):
    assert check(data, "--pictures", tmp_path / "out") == 0
    output = capsys.readouterr().out
    for name in ("labels", "statistics", "batch_0", "batch_1"):
        assert str(tmp_path / f"out/{name}.png") in output
        assert Image.open(tmp_path / f"out/{name}.png").width > 200
    assert output.endswith(f"dino_small_custom.py data.root={data}\n")


def test_batches_are_those_of_the_recipe(data, tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        "from dino_d2.recipes import configs_folder, load_config_file\n"
        "_cfg = load_config_file(str(configs_folder() / 'dino/dino_small_custom.py'))\n"
        "data, dataloader, train = _cfg.data, _cfg.dataloader, _cfg.train\n"
        "data.image_size = 64\n"
        "dataloader.train.total_batch_size = 2\n"
    )
    assert check(data, "--pictures", tmp_path / "out", "--config-file", recipe) == 0
    two = Image.open(tmp_path / "out/batch_0.png")
    assert check(data, "--pictures", tmp_path / "other") == 0
    assert two.height < Image.open(tmp_path / "other/batch_0.png").height


@pytest.mark.parametrize(
    ("recipe", "words"),
    [("nothing.py", "there is no such recipe"), ("configs/dino/dino_tiny_shapes.py", "no keys for own data")],
)
def test_other_recipes_are_refused(recipe, words, data, tmp_path, capsys):
    assert check(data, "--pictures", tmp_path / "out", "--config-file", recipe) == 1
    assert words in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_to(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert check(data, "--pictures", tmp_path / "file") == 1
    assert "Give another folder" in capsys.readouterr().err
