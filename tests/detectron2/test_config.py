# SPDX-License-Identifier: Apache-2.0
"""LazyConfig, LazyCall and instantiate, under either engine."""

import collections
import logging
import pickle
import textwrap
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig

from dino_d2.detectron2 import ENGINE
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import LazyConfig, get_cfg, instantiate
from dino_d2.detectron2.data import transforms as T
from dino_d2.detectron2.structures import Boxes
from dino_d2.detectron2.utils.registry import _convert_target_to_string, locate


def write(path: Path, content: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(content))
    return str(path)


@pytest.fixture
def recipe(tmp_path) -> str:
    write(
        tmp_path / "common/parts.py",
        """
        import torch
        from dino_d2.detectron2.config import LazyCall as L
        model = L(torch.nn.Linear)(in_features=3, out_features="${.in_features}")
        train = dict(steps=[1, 2], rate=0.1)
        """,
    )
    return write(
        tmp_path / "recipes/one.py",
        """
        from dino_d2.detectron2.config import LazyCall as L
        from dino_d2.detectron2.data import transforms as T
        from ..common.parts import model, train
        model.in_features = 5
        train.rate = 0.2
        flip = L(T.RandomFlip)(prob=0.3)
        _hidden = dict(a=1)
        a_number = 3
        """,
    )


def test_load(recipe):
    cfg = LazyConfig.load(recipe)
    assert sorted(cfg) == ["flip", "model", "train"]  # neither hidden names nor plain numbers
    assert isinstance(cfg.train, DictConfig)
    assert cfg.train == {"steps": [1, 2], "rate": 0.2}
    layer = instantiate(cfg.model)
    assert (layer.in_features, layer.out_features) == (5, 5)
    flip = instantiate(cfg.flip)
    assert isinstance(flip, T.RandomFlip)
    assert flip.prob == 0.3


def test_load_by_key(recipe):
    assert LazyConfig.load(recipe, "train").rate == 0.2
    model, number = LazyConfig.load(recipe, ("model", "a_number"))
    assert (model.in_features, number) == (5, 3)


def test_imported_configs_are_not_shared(recipe):
    LazyConfig.load(recipe)
    parts = str(Path(recipe).parents[1] / "common/parts.py")
    assert LazyConfig.load(parts).model.in_features == 3


@pytest.mark.parametrize("statement", ["from .nothing import x", "from . import x", "from ..common import parts"])
def test_relative_import_that_cannot_work(tmp_path, statement):
    write(tmp_path / "common/parts.py", "x = 1")
    path = write(tmp_path / "recipes/bad.py", statement)
    with pytest.raises(ImportError):
        LazyConfig.load(path)


def test_bad_files(tmp_path):
    with pytest.raises(SyntaxError, match=r"bad\.py"):
        LazyConfig.load(write(tmp_path / "bad.py", "a = ("))
    with pytest.raises(ValueError, match="yaml"):
        LazyConfig.load(write(tmp_path / "bad.txt", ""))


def test_overrides(recipe):
    cfg = LazyConfig.load(recipe)
    overrides = ["model.in_features=9", "train.steps=[4,5]", "+train.new.deep=1e-3", "train.rate=null", "name='a b'"]
    LazyConfig.apply_overrides(cfg, overrides)
    assert cfg.model.in_features == 9
    assert cfg.train == {"steps": [4, 5], "rate": None, "new": {"deep": 0.001}}
    assert cfg.name == "a b"
    with pytest.raises(KeyError, match=r"model\.in_features"):
        LazyConfig.apply_overrides(cfg, ["model.in_features.more=1"])
    with pytest.raises(NotImplementedError):
        LazyConfig.apply_overrides(cfg, ["~model"])


def test_save_and_load_again(recipe, tmp_path):
    cfg = LazyConfig.load(recipe)
    path = str(tmp_path / "config.yaml")
    LazyConfig.save(cfg, path)
    assert "_target_: torch.nn.Linear" in Path(path).read_text()
    assert "embedded" not in Path(path).read_text()
    assert "${.in_features}" in Path(path).read_text()  # interpolation stays alive
    assert callable(cfg.flip._target_), "saving must not change the config"
    again = LazyConfig.load(path)
    again.model.in_features = 7
    assert instantiate(again.model).out_features == 7
    assert isinstance(instantiate(again.flip), T.RandomFlip)


def test_save_what_yaml_cannot_hold(tmp_path):
    cfg = LazyConfig.load(write(tmp_path / "a.py", "part = dict(function=lambda x: x + 1)"))
    path = str(tmp_path / "config.yaml")
    LazyConfig.save(cfg, path)
    with open(f"{path}.pkl", "rb") as file:
        assert pickle.load(file).part.function(1) == 2


def test_instantiate_nested_and_lists():
    cfg = L(torch.nn.ModuleList)(modules=[L(torch.nn.Linear)(in_features=2, out_features=k) for k in (3, 4)])
    modules = instantiate(cfg)
    assert [m.out_features for m in modules] == [3, 4]
    assert instantiate({"a": 1}) == {"a": 1}
    assert instantiate(L("torch.nn.Linear")(in_features=1, out_features=2)).out_features == 2
    assert instantiate(3) == 3


def test_instantiate_says_what_failed(caplog):
    logging.getLogger("detectron2").propagate = True
    with pytest.raises(TypeError), caplog.at_level("ERROR"):
        instantiate(L(torch.nn.Linear)(nonsense=1))
    assert "torch.nn.modules.linear.Linear" in caplog.text
    with pytest.raises(ImportError):
        instantiate({"_target_": "no_such_package.thing"})
    with pytest.raises(TypeError):
        L(3)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (torch.optim.AdamW, "torch.optim.AdamW"),
        (torch.nn.Linear, "torch.nn.Linear"),
        (collections.OrderedDict.fromkeys, None),
    ],
)
def test_targets_by_name(target, name):
    if name is None:
        assert locate("collections.OrderedDict.fromkeys") == target
    else:
        assert _convert_target_to_string(target) == name
        assert locate(name) is target


def test_names_of_both_engines_mean_the_one_that_serves():
    assert locate("dino_d2.detectron2.structures.Boxes") is Boxes
    assert locate("detectron2.structures.Boxes") is Boxes
    assert locate("detectron2.structures.boxes.Boxes") is Boxes


def test_yacs_defaults():
    cfg = get_cfg()
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT) == (800, 1333, "BGR")
    cfg.MODEL.WEIGHTS = "x"
    assert get_cfg().MODEL.WEIGHTS == ""


@pytest.mark.skipif(ENGINE != "embedded", reason="Detectron2 has these keys")
def test_yacs_keys_of_detectron2_say_what_they_need(tmp_path):
    cfg = get_cfg()
    path = write(tmp_path / "a.yaml", "MODEL:\n  MASK_ON: true\n")
    with pytest.raises(AttributeError, match=r"'SOLVER'.*Detectron2 itself"):
        cfg.SOLVER.BASE_LR = 0.1
    with pytest.raises(AssertionError, match=r"'SOLVER\.BASE_LR'.*Detectron2 itself"):
        cfg.merge_from_list(["SOLVER.BASE_LR", 0.1])
    with pytest.raises(KeyError, match=r"'MODEL\.MASK_ON'.*Detectron2 itself"):
        cfg.merge_from_file(path)
    assert not hasattr(cfg, "SOLVER")
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 600])
    assert cfg.clone().INPUT.MIN_SIZE_TEST == 600
    with pytest.raises(AssertionError, match="odd length"):
        cfg.merge_from_list(["INPUT.MIN_SIZE_TEST"])
