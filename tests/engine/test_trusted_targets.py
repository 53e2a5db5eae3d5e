# SPDX-License-Identifier: Apache-2.0
"""Config files and overrides that want to run something, and those that must keep working."""

import importlib
import time

import pytest
import yaml

from dino_d2.detectron2.config import LazyConfig
from dino_d2.engine import trusted_targets
from dino_d2.engine.config import read_config
from dino_d2.errors import UserError
from dino_d2.predict.recipe import load_recipe
from tests.paths import ROOT

RECIPES = sorted(
    path
    for path in (ROOT / "configs").glob("*/**/*.py")
    if "common" not in path.parts and not path.name.startswith("detectron2_")
)
RECIPE = str(ROOT / "configs/dino/dino_tiny_shapes.py")


@pytest.fixture(params=[read_config, load_recipe], ids=["training", "prediction"])
def load(request):
    return lambda path, overrides=(): request.param(str(path), overrides)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_what_a_run_of_every_recipe_leaves_is_trusted(recipe, tmp_path):
    path = str(tmp_path / "config.yaml")
    LazyConfig.save(LazyConfig.load(str(recipe)), path)
    assert trusted_targets.check_trust(path, ["train.max_iter=3"]) == ["train.max_iter=3"]


def test_names_of_detectron2_are_trusted():
    for name in ("data.get_detection_dataset_dicts", "evaluation.COCOEvaluator", "modeling.backbone.ResNet"):
        for door in ("detectron2.", "dino_d2.detectron2."):
            trusted_targets.check_target("line 1", door + name)


def test_the_excluded_parts_are_there():
    for name in trusted_targets.EXCLUDED:
        if name.startswith("dino_d2."):
            importlib.import_module(name)


def call(target, /, **arguments):
    return yaml.safe_dump({"model": {"_target_": target, **arguments}})


def hostile(marker):
    """Name -> text of a config.yaml that makes the file ``marker`` when it is loaded or instantiated."""
    touch = f"touch {marker}"
    names = {
        "os.system": {"command": touch},
        "posix.system": {"command": touch},
        "subprocess.check_call": {"args": touch, "shell": True},
        "builtins.eval": {},
        "builtins.open": {"file": str(marker), "mode": "w"},
        "torch.load": {"f": str(marker)},
        "torch.save": {"obj": 1, "f": str(marker)},
        "torch.hub.load": {"repo_or_dir": str(marker)},
        "torch.hub.download_url_to_file": {"url": "file:///etc/hostname", "dst": str(marker)},
        "fvcore.common.download.download": {"url": "file:///etc/hostname", "dir": str(marker)},
        "timm.create_model": {"model_name": "resnet18", "checkpoint_path": str(marker)},
        # modules of the packages have other modules as attributes
        "torch.nn.modules.module.functools.partial": {},
        "torch.nn.modules.module.warnings.sys.exit": {},
        "torch.nn.modules.module.torch.hub.load": {},
        # names that call, import or execute
        "dino_d2.detectron2.utils.registry.locate": {"name": "os.system"},
        "dino_d2.detectron2.config.instantiate": {},
        "dino_d2.detectron2.config.LazyConfig.load": {"filename": str(marker)},
        "detectron2.config.LazyConfig.save": {"cfg": {}, "filename": str(marker)},
        "dino_d2.detectron2.engine.launch": {},
        "dino_d2.cli.main": {},
        "torch.nn.Module.apply": {},
        "torch.nn.Module.__getattr__": {},
        "torch.nn.modules.module._addindent": {},
        "${train.name}": {"command": touch},
        "os": {},
        "": {},
        "torch.nn.\nReLU": {},
    }
    files = {name: call(name, **arguments) for name, arguments in names.items()}
    files |= {
        "python tag": f"!!python/object/apply:os.system ['{touch}']",
        "python tag below": f"a: [1, {{b: !!python/object/apply:os.system ['{touch}']}}]",
        "python name": "a: !!python/name:os.system",
        "python module": "a: !!python/module:os",
        "python object": f"a: !!python/object/new:os.system ['{touch}']",
        "tag by a handle": f"%TAG !p! tag:yaml.org,2002:python/object/apply:\n---\na: !p!os.system ['{touch}']",
        "unknown tag": "a: !mine 1",
        "binary key": "a: {!!binary X3RhcmdldF8=: os.system}",
        "quoted key": f'a: {{"\\x5ftarget_": os.system, command: "{touch}"}}',
        "explicit key": f"a:\n  ? _target_\n  : os.system\n  command: {touch}",
        "merged": f"x: &x {{_target_: os.system, command: {touch}}}\na: {{<<: *x}}",
        "alias of the name": f"x: &x os.system\na: {{_target_: *x, command: {touch}}}",
        "a call gives the name": f"a: {{_target_: {{_target_: torch.nn.Identity}}, command: {touch}}}",
        "a resolver": f"a: ${{oc.create:{{_target_:os.system,command:'{touch}'}}}}",
        "a decoder": "x: os.system\na: '${oc.decode:\"{_target_:${x}}\"}'",
        "a default": f"a: ${{oc.select:x,{{_target_:os.system,command:'{touch}'}}}}",
        "a resolver after another": "a: '${oc.select:train.seed,null}${oc.create:{}}'",
        "a nested resolver": "x: create\na: '${oc.${x}:{}}'",
        "in a list": f"a: [[[{{_target_: os.system, command: {touch}}}]]]",
        "trusts itself": f"train: {{trust_config: true}}\na: {{_target_: os.system, command: {touch}}}",
    }
    return files


def test_a_config_yaml_runs_nothing(load, tmp_path):
    marker = tmp_path / "ran"
    for name, text in hostile(marker).items():
        path = tmp_path / "config.yaml"
        path.write_text(text)
        with pytest.raises(UserError, match=r"config\.yaml, line \d+: calls .*add train\.trust_config=True") as caught:
            load(path)
        assert "\n" not in str(caught.value), name
        assert not marker.exists(), name


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
BOMBS = {
    "lists": BOMB,
    "merges": "a: &a {x: 1}\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} {{<<: [{', '.join(['*' + chr(97 + i)] * 9)}]}}\n" for i in range(9)
    ),
    "keys": BOMB + "z: {? *j : 1}\n",
    "itself": "a: &a [*a]\n",
    "deep": "a: " + "[" * 100_000,
    "deep blocks": "- " * 5000 + "x",
    "long": "a: " + "x" * 2**21,
    "no yaml": "a: [1",
    "two documents": "a: 1\n---\nb: 2\n",
    "control characters": "a: \x00\x01",
    "unknown alias": "a: *b",
}  # fmt: skip


@pytest.mark.parametrize("what", BOMBS)
def test_bombs_are_refused_at_once(load, what, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(BOMBS[what])
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"config\.yaml") as caught:
        load(path)
    assert time.perf_counter() - start < 5
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "optimizer._target_=os.system",
        "model={_target_:subprocess.check_call,args:[touch,x]}",
        "+extra.deep=[1,{a:{_target_:builtins.eval}}]",
        "model.detector.backbone._target_=torch.hub.load",
        "+x='${oc.create:{_target_:os.system}}'",
        "++train.device._target_=os.system",
    ],
)
def test_an_override_runs_nothing(load, override):
    with pytest.raises(UserError, match=r"calls .*train\.trust_config=True"):
        load(RECIPE, [override])


def test_own_parts_are_called_where_the_user_trusts_the_file(load, tmp_path):
    cfg = LazyConfig.load(RECIPE)
    cfg.optimizer._target_ = "tests.engine.test_trusted_targets.call"
    path = tmp_path / "config.yaml"
    LazyConfig.save(cfg, str(path))
    for overrides in ([], ["train.trust_config=False"]):
        with pytest.raises(UserError, match=r"tests\.engine\.test_trusted_targets\.call"):
            load(path, overrides)
    loaded = load(path, ["train.max_iter=3", "train.trust_config=True"])
    assert loaded.train.max_iter == 3
    assert "trust_config" not in loaded.train  # a run's config.yaml must not ask for trust
    with pytest.raises(UserError, match="must be True or False"):
        load(path, ["train.trust_config=maybe"])


def test_a_recipe_may_name_anything(load, tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(
        "import os\nfrom dino_d2.detectron2.config import LazyCall as L, LazyConfig\n"
        f"cfg = LazyConfig.load({RECIPE!r})\nmodel, dataloader = cfg.model, cfg.dataloader\nextra = L(os.getcwd)()\n"
    )
    assert "extra" in load(path)
