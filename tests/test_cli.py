# SPDX-License-Identifier: Apache-2.0
"""The console command's verbs; what they run has tests of its own."""

import argparse
import json

import pytest
import torch

from dino_d2 import __version__, cli
from dino_d2.data.shapes import Recipe, generate
from dino_d2.engine import command
from dino_d2.engine.config import load_config


def test_help_lists_every_verb(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb}  " in text for verb in cli.VERBS)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"dino_d2 {__version__}\n"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_explains_itself_under_its_own_name(verb, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([*verb.split(), "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dino_d2 {verb} ")


@pytest.mark.parametrize(("words", "reason"), [
    ([], "no verb is given"),
    (["fly"], "'fly' is not a verb"),
    (["data"], "'data' is not a verb"),
    (["data", "fly", "x"], "'data fly' is not a verb"),
])  # fmt: skip
def test_a_wrong_verb_is_an_error_with_the_list(words, reason, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert "checkpoint convert" in error


@pytest.mark.parametrize(("words", "expected"), [
    (["train", "--config-file", "a.py", "--resume", "train.seed=1"], {"eval_only": False, "resume": True}),
    (["train", "--config-file", "a.py", "--num-gpus", "2", "train.seed=1"], {"num_gpus": 2, "resume": False}),
    (["eval", "--config-file", "a.py", "train.seed=1"], {"eval_only": True, "resume": False, "num_machines": 1}),
])  # fmt: skip
def test_runs_get_the_arguments_of_detectron2s_scripts(words, expected, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "launch_main", seen.append)
    cli.main(words)
    (args,) = seen
    assert args.config_file == "a.py"
    assert args.opts == ["train.seed=1"]
    assert args.dist_url.startswith("tcp://127.0.0.1:")
    assert {key: getattr(args, key) for key in expected} == expected


def test_a_mistake_in_a_run_is_one_line():
    with pytest.raises(SystemExit, match=r"^error: there is no config file 'nothing\.py'"):
        cli.main(["train", "--config-file", "nothing.py"])


def test_a_run_finds_its_recipe_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = argparse.Namespace(config_file="dino/dino_tiny_shapes.py", opts=["train.device=cpu"], eval_only=False)
    cfg = load_config(args)
    assert cfg.train.output_dir == "./output/dino_tiny_shapes"


def test_data_is_checked(tmp_path, capsys):
    generate(tmp_path, Recipe(train=2, val=1, size=64))
    file = tmp_path / "annotations" / "shapes_train.json"
    assert cli.main(["data", "check", str(file), str(tmp_path / "train")]) == 0
    assert "2 images" in capsys.readouterr().out
    coco = json.loads(file.read_text())
    coco["images"][0]["file_name"] = "nothing.png"
    file.write_text(json.dumps(coco))
    assert cli.main(["data", "check", str(file), str(tmp_path / "train")]) == 1


def test_checkpoints_are_converted_or_refused(tmp_path, capsys):
    torch.save({"nothing": torch.zeros(1)}, tmp_path / "in.pth")
    with pytest.raises(SystemExit, match="no checkpoint of a known format"):
        cli.main(["checkpoint", "convert", str(tmp_path / "in.pth"), str(tmp_path / "out.pth")])
