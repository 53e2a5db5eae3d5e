# SPDX-License-Identifier: Apache-2.0
"""Values are converted and refused by one set of rules, in recipe files, config.yaml files and overrides."""

import pytest
from omegaconf import OmegaConf

from dino_d2.detectron2.config import LazyConfig
from dino_d2.engine.config import check_config, read_config
from dino_d2.engine.values import convert_values
from dino_d2.errors import UserError
from tests.paths import CONFIGS

RECIPE = str(CONFIGS / "dino/dino_tiny_shapes.py")

CONVERTED = {
    "train.max_iter": ("1e3", 1000.0, 1000),
    "train.seed": ("5e0", 5.0, 5),
    "model.detector.queries.num_queries": ("1e2", 100.0, 100),
    "model.detector.decoder.num_layers": ("2e0", 2.0, 2),
    "model.postprocess.top_k": ("1e2", 100.0, 100),
    "model.detector.encoder.num_points": ("4e0", 4.0, 4),  # an argument that the recipe leaves at its default
    "dataloader.train.num_workers": ("2e0", 2.0, 2),
    "dataloader.train.total_batch_size": ("8e0", 8.0, 8),
    "lr_multiplier.scheduler.milestones": ("[50.0,1e2]", [50.0, 100.0], [50, 100]),
    "train.panels.num_images": ("2e0", 2.0, 2),
}


@pytest.mark.parametrize("key", CONVERTED)
def test_whole_numbers_are_ints_in_overrides_and_in_files(key, tmp_path):
    text, value, expected = CONVERTED[key]
    for cfg in (read_config(RECIPE, [f"{key}={text}"]), _from_file({key: value}, tmp_path)):
        found = OmegaConf.select(cfg, key)
        assert found == expected
        assert [type(n) for n in found] == [int, int] if isinstance(expected, list) else type(found) is int


def _from_file(changes: dict, folder):
    """The recipe's config.yaml with other values, as a user may have edited it."""
    cfg = LazyConfig.load(RECIPE)
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    LazyConfig.save(cfg, str(folder / "config.yaml"))
    return read_config(str(folder / "config.yaml"))


REFUSED = {
    "train.output_dir": ["", " ", 5, None],
    "train.init_checkpoint": [123, 1.5, True],
    "train.device": ["", 0],
    "train.seed": [20261121000, 2**32, 1.5, "text"],
    "train.checkpointer.max_to_keep": [0, -1, 1.5],
    "train.num_pictures": [-1, 1.5],
    "train.max_iter": ["1e3", 1.5, None, True, float("nan"), float("inf")],
    "train.clip_grad_norm": ["0.1", float("nan")],
    "train.ema.decay": [1, -0.1],
    "train.amp.enabled": ["yes", 1],
    "train.panels.num_images": [0],
    "optimizer.lr": ["1e-4", float("inf"), 0],
    "optimizer.weight_decay": [-1],
    "model.detector.queries.num_queries": [None, "many", -1],
    "model.detector.encoder.num_heads": [0, 2.5],
    "model.detector.encoder.dropout": [1.5, -0.1, "none"],
    "model.denoising.label_flip_probability": [2],
    "lr_multiplier.warmup_length": [2, -0.1],
    "lr_multiplier.warmup_method": ["quadratic", 5],
    "lr_multiplier.scheduler.milestones": [[100, 75], [75, 75], [-1, 5], [1, 2, 3], ["a", "b"]],
    "lr_multiplier.scheduler.values": [[1.0], [-1.0, 0.1]],
    "model.pixel_mean": [5, ["a", 1.0, 2.0]],
    "train.amp": [None, 5],
    "model.detector": [None],
    "lr_multiplier": [{}],
}


@pytest.mark.parametrize("key", REFUSED)
def test_values_that_cannot_be_used_are_refused_before_the_run(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in REFUSED[key]:
        cfg = LazyConfig.load(RECIPE)
        OmegaConf.update(cfg, key, value, merge=False)
        with pytest.raises(UserError, match=key.split(".")[0]):
            _check(cfg)


def _check(cfg) -> None:
    convert_values(cfg)
    check_config(cfg)


@pytest.mark.parametrize("text", ["007", "20261121", "1e3", "true"])
def test_a_number_on_the_command_line_is_text_where_text_is_expected(text):
    assert read_config(RECIPE, [f"train.output_dir={text}"]).train.output_dir == text


def test_a_path_with_a_comma_is_explained():
    with pytest.raises(UserError, match="quotes"):
        read_config(RECIPE, ["train.init_checkpoint=/data/run,1/model.pth"])
    cfg = read_config(RECIPE, ['train.init_checkpoint="/data/run,1/model.pth"'])
    assert cfg.train.init_checkpoint == "/data/run,1/model.pth"


def test_a_number_written_as_text_in_yaml_is_explained(tmp_path):
    with pytest.raises(UserError, match=r"optimizer\.lr='1e-4'.*number.*1\.0e-4"):
        _from_file({"optimizer.lr": "1e-4"}, tmp_path)


def test_interpolations_are_checked_and_stay():
    cfg = read_config(RECIPE, ["dataloader.train.num_workers=${train.accumulate}"])
    assert OmegaConf.is_interpolation(cfg.dataloader.train, "num_workers")
    with pytest.raises(UserError, match=r"num_workers=.*cannot be resolved"):
        read_config(RECIPE, ["dataloader.train.num_workers=${train.nothing}"])
    with pytest.raises(UserError, match="num_workers"):
        read_config(RECIPE, ["dataloader.train.num_workers=${train.device}"])


def test_annotations_of_other_libraries_convert_and_refuse_nothing():
    cfg = read_config(RECIPE, ["+extra={_target_: torch.nn.Linear, in_features: 2e0, out_features: text}"])
    assert type(cfg.extra.in_features) is int
    assert cfg.extra.out_features == "text"


def test_the_home_folder_in_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cfg = OmegaConf.create({"train": {"output_dir": "~/runs/one", "init_checkpoint": "~/a.pth"}})
    convert_values(cfg)
    assert cfg.train == {"output_dir": "/home/me/runs/one", "init_checkpoint": "/home/me/a.pth"}


@pytest.mark.parametrize("value", ["0", "-1", "[1, 10]", "many"])
def test_max_dets_per_image(value):
    with pytest.raises(UserError, match=r"dataloader\.evaluator\.max_dets_per_image"):
        read_config(RECIPE, [f"dataloader.evaluator.max_dets_per_image={value}"])


def test_an_epsilon_of_0_would_make_weights_nan():
    with pytest.raises(UserError, match=r"optimizer\.eps=0: must be greater than 0"):
        read_config(RECIPE, ["+optimizer.eps=0"])


@pytest.mark.parametrize(
    "override",
    ["model={}", "train={}", "optimizer={}", "optimizer=${train}", "optimizer.params=???", "train.output_dir=???"],
)
def test_an_emptied_section_is_refused(override, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=override.partition("=")[0]):
        check_config(read_config(RECIPE, [override]))
