# SPDX-License-Identifier: Apache-2.0
"""Config files by name, and the output folder that follows from a recipe's file name."""

from pathlib import Path

import pytest

from dino_d2.detectron2.config import LazyConfig
from dino_d2.recipes import configs_folder, find_config, load_config_file
from tests.paths import CONFIGS

RECIPE = "dino/dino_tiny_shapes.py"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", [RECIPE, f"configs/{RECIPE}", f"./{RECIPE}", CONFIGS / RECIPE])
def test_recipes_are_found_from_any_folder(name):
    assert configs_folder() == CONFIGS
    assert find_config(name) == str(CONFIGS / RECIPE)


def test_a_file_in_the_working_folder_comes_first():
    own = Path("dino") / "dino_tiny_shapes.py"
    own.parent.mkdir()
    own.write_text("")
    assert find_config(RECIPE) == RECIPE
    assert find_config(own) == str(own)


def test_an_unknown_name_stays_as_it_is():
    assert find_config("dino/nothing.py") == "dino/nothing.py"
    assert find_config("dino") == "dino"


def write(name: str, content: str) -> str:
    Path(name).write_text(content)
    return name


def test_a_recipe_writes_to_a_folder_of_its_own_name():
    assert load_config_file(write("mine.py", 'train = dict(output_dir="./output")')).train.output_dir == "./output/mine"


@pytest.mark.parametrize("folder", ["elsewhere", "./output/other"])
def test_a_recipe_may_name_its_output_folder(folder):
    assert load_config_file(write("mine.py", f'train = dict(output_dir="{folder}")')).train.output_dir == folder


def test_a_saved_config_keeps_its_output_folder():
    cfg = load_config_file(str(CONFIGS / RECIPE))
    LazyConfig.save(cfg, "config.yaml")
    assert load_config_file("config.yaml").train.output_dir == "./output/dino_tiny_shapes"
    cfg.train.output_dir = "./output"
    LazyConfig.save(cfg, "config.yaml")
    assert load_config_file("config.yaml").train.output_dir == "./output"


def test_detectron2s_own_scripts_find_an_output_folder():
    assert LazyConfig.load(str(CONFIGS / RECIPE)).train.output_dir == "./output"


def test_configs_without_a_run_load():
    assert load_config_file(write("parts.py", "model = dict(a=1)")) == {"model": {"a": 1}}
