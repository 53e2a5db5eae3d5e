# SPDX-License-Identifier: Apache-2.0
"""One config file under both engines, and config.yaml across them."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from dino_d2.detectron2 import ENGINE
from tests.paths import ROOT

from .engines import ENGINES, both, module

RECIPES = sorted(
    str(p.relative_to(ROOT))
    for p in (ROOT / "configs").rglob("*.py")
    # Detectron2's backbones do not come through a door that leads to the embedded engine.
    if "common" not in p.parts and ("backbones" not in p.parts or ENGINE == "detectron2")
)


def plain(cfg) -> dict:
    """The config with its targets as objects, whether they came as objects or by name."""
    locate = module("real", "utils.registry").locate

    def resolve(value):
        if isinstance(value, dict):
            return {k: locate(v) if k == "_target_" and isinstance(v, str) else resolve(v) for k, v in value.items()}
        return [resolve(inner) for inner in value] if isinstance(value, list) else value

    return resolve(OmegaConf.to_container(cfg, resolve=False))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_load_alike(recipe):
    real, embedded = (m.LazyConfig.load(str(ROOT / recipe)) for m in both("config"))
    assert plain(real) == plain(embedded)


@pytest.mark.parametrize("recipe", RECIPES[:1] + [r for r in RECIPES if "tiny" in r])
@pytest.mark.parametrize("saver", ENGINES)
@pytest.mark.parametrize("loader", ENGINES)
def test_config_yaml_of_one_loads_in_the_other(recipe, saver, loader, tmp_path):
    lazy = module(saver, "config").LazyConfig
    cfg = lazy.load(str(ROOT / recipe))
    if "data" in cfg:  # what this recipe leaves to the command line
        lazy.apply_overrides(
            cfg, [f"data.{split}.{part}=x" for split in ("train", "val") for part in ("json", "images")]
        )
    lazy.save(cfg, str(tmp_path / "config.yaml"))
    if saver == "embedded" or ENGINE == "detectron2":  # Detectron2 writes the embedded classes' full names
        assert "embedded" not in (tmp_path / "config.yaml").read_text()
    again = module(loader, "config").LazyConfig.load(str(tmp_path / "config.yaml"))
    assert plain(again) == plain(cfg)


@pytest.mark.parametrize("saver", ENGINES)
@pytest.mark.parametrize("loader", ENGINES)
def test_targets_become_objects_of_the_loading_engine(saver, loader, tmp_path):
    target = module(saver, "data.transforms").RandomFlip
    config = module(saver, "config")
    config.LazyConfig.save(OmegaConf.create({"a": config.LazyCall(target)(prob=0.2)}, flags={"allow_objects": True}),
                           str(tmp_path / "c.yaml"))  # fmt: skip
    config = module(loader, "config")
    flip = config.instantiate(config.LazyConfig.load(str(tmp_path / "c.yaml")).a)
    # real Detectron2 follows the door, which may lead to either engine
    allowed = [module("real", "data.transforms").RandomFlip]
    if loader == "embedded" or saver == "embedded":
        allowed.append(module("embedded", "data.transforms").RandomFlip)
    assert type(flip) in (allowed[-1:] if loader == "embedded" else allowed)
    assert flip.prob == 0.2


@dataclass
class Size:
    height: int
    width: int | None = None


@dataclass
class Sizes:
    first: Size
    rest: list[Size] = field(default_factory=list)


def pair(size, scale=1):
    return size, scale


@pytest.mark.parametrize("saver", ENGINES)
@pytest.mark.parametrize("loader", ENGINES)
def test_dataclasses_in_a_config(saver, loader, tmp_path):
    config = module(saver, "config")
    cfg = OmegaConf.create(
        {
            "value": config.LazyCall(pair)(size=Size(3, 4), scale=2),
            "target": config.LazyCall(Size)(height=5),
            "nested": config.LazyCall(pair)(size=Sizes(Size(1), [Size(2), Size(3)])),
        },
        flags={"allow_objects": True},
    )
    config.LazyConfig.save(cfg, str(tmp_path / "c.yaml"))
    assert not (tmp_path / "c.yaml.pkl").exists()
    config = module(loader, "config")
    for read in (cfg, config.LazyConfig.load(str(tmp_path / "c.yaml"))):
        assert config.instantiate(read.value) == (Size(3, 4), 2)
        assert config.instantiate(read.target) == Size(5)
        assert config.instantiate(read.nested) == (Sizes(Size(1), [Size(2), Size(3)]), 1)
        read.value.size.width = 7
        assert config.instantiate(read.value) == (Size(3, 7), 2)


@pytest.mark.parametrize("statement", ["from . import x", "from .nothing import x"])
def test_imports_that_cannot_work_alike(statement, tmp_path):
    path = tmp_path / "a.py"
    path.write_text(statement)
    words = "relative import" if statement == "from . import x" else "not exist"
    for config in both("config"):
        with pytest.raises(ImportError, match=words):
            config.LazyConfig.load(str(path))


OVERRIDES = [
    ["a.b=3", "+a.c=[1,2]"],
    ["a.d={x: 1, y: [2]}"],
    ["a.b=null", "e=true", "f='3'"],
    ["a.b=1e-4"],
    ["g.h.i=text with spaces"],
    ["l=[]"],
]


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_overrides_alike(overrides):
    results = [
        m.LazyConfig.apply_overrides(OmegaConf.create({"a": {"b": 1, "d": {"x": 0}}, "l": [1]}), overrides)
        for m in both("config")
    ]
    assert results[0] == results[1]


def test_target_names_alike():
    real, embedded = both("utils.registry")
    for target in (torch.optim.AdamW, torch.nn.Linear, torch.nn.functional.gelu, Path, OmegaConf, pytest.approx):
        assert real._convert_target_to_string(target) == embedded._convert_target_to_string(target)


def test_yacs_defaults_alike():
    real, embedded = (m.get_cfg() for m in both("config"))

    def check(part, whole):
        for key, value in part.items():
            if isinstance(value, dict):
                check(value, whole[key])
            else:
                assert value == whole[key], key

    check(embedded, real)
