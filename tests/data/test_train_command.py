# SPDX-License-Identifier: Apache-2.0
"""The command that is printed for a dataset fits the machine, and a shell."""

import shlex
from pathlib import Path

import pytest
import torch

from dino_d2.data.train_command import FINE_TUNING, FROM_SCRATCH, how_to_train, how_to_train_on
from tests.data.test_custom_data import LAYOUTS, roboflow, write_split
from tests.paths import ROOT

SCRATCH = f"To train from scratch:\n  python train_net.py --config-file {FROM_SCRATCH} "


def test_the_recipes_exist():
    assert (ROOT / FROM_SCRATCH).is_file()
    assert (ROOT / FINE_TUNING).is_file()


def test_a_cpu_gets_no_large_recipe(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert how_to_train({"data.root": Path("/data/mine")}) == f"{SCRATCH}data.root=/data/mine"


@pytest.mark.parametrize(("memory", "fine_tunes"), [(6, False), (24, True)])
def test_a_large_gpu_can_fine_tune(memory, fine_tunes, monkeypatch):
    properties = type("Properties", (), {"total_memory": memory * 2**30})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    words = how_to_train({"data.root": Path("/data/mine")})
    assert words.startswith(f"{SCRATCH}data.root=/data/mine")
    assert (f"{FINE_TUNING} data.root=/data/mine train.init_checkpoint=coco.pth" in words) is fine_tunes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_root_is_found_from_either_json(layout, tmp_path):
    for json_file, images, prefix in LAYOUTS[layout]:
        write_split(tmp_path / json_file, tmp_path / images, 2, prefix)
    (train, train_images, _), (val, val_images, _) = LAYOUTS[layout]
    expected = f"{SCRATCH}data.root={tmp_path}"
    assert how_to_train_on(tmp_path / train, tmp_path / train_images) == expected
    assert how_to_train_on(tmp_path / val, tmp_path / val_images) == expected
    given = tmp_path / train, tmp_path / train_images
    assert how_to_train_on(tmp_path / val, tmp_path / val_images, given) == expected


def test_files_apart_are_named_one_by_one(tmp_path):
    write_split(tmp_path / "a/boxes.json", tmp_path / "my images", 2)
    words = how_to_train_on(tmp_path / "a/boxes.json", tmp_path / "my images")
    arguments = shlex.split(words)
    assert f"data.train.json={tmp_path}/a/boxes.json" in arguments
    assert f'data.train.images="{tmp_path}/my images"' in arguments
    assert arguments[-2:] == ["data.val.json=FILE", "data.val.images=FOLDER"]
    write_split(tmp_path / "b/other.json", tmp_path / "more", 2)
    both = how_to_train_on(
        tmp_path / "b/other.json", tmp_path / "more", (tmp_path / "a/boxes.json", tmp_path / "my images")
    )
    assert f"data.val.json={tmp_path}/b/other.json" in both
    assert "FILE" not in both


def test_a_test_set_is_not_trained_on(tmp_path):
    root = roboflow(tmp_path)
    write_split(root / "test/_annotations.coco.json", root / "test", 2)
    assert how_to_train_on(root / "test/_annotations.coco.json", root / "test") == ""
