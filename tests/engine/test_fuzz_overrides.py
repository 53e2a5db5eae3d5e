# SPDX-License-Identifier: Apache-2.0
"""Random overrides: each is refused in words before the run, or the model, optimizer and data can be built with it."""

import copy
import random
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import DictConfig, ListConfig

from dino_d2.data.shapes import Recipe, generate
from dino_d2.engine.building import build
from dino_d2.engine.config import CLASSES, SCHEDULE, check_config, read_config, resolve_calls
from dino_d2.engine.model import build_model
from dino_d2.engine.overrides import apply_overrides, arguments
from dino_d2.engine.values import convert_values
from dino_d2.errors import UserError
from tests.paths import CONFIGS

VALUES = [
    "null", "", "0", "1", "2", "3", "7", "-1", "-3", "2e0", "1e3", "1e-4", "0.5", "1.5", "-0.5", "nan", "inf", "-inf",
    "1e400", "20261121000", "123456789012345678901234567890", "true", "False", "text", "'a b'", '""', '"5"', "[]",
    "[1,2]", "[2e0]", "[a]", "[null]", "[[1]]", "[3,2,1]", "{}", "{a: 1}", "{_target_: builtins.print}", "{name: 5}",
    "/data/run,1/model.pth", "${train.seed}", "${train}", "${nothing}", "${", "é", "a b", "(", "choice(1,2)",
    "range(1,3)", "1,2", "bfloat16", "linear", "cpu", "???",
]  # fmt: skip

SMALL = [
    "model.detector.embed_dim=16",
    "model.detector.backbone.options.channels=[8,8,8,8]",
    "model.detector.neck={in_channels: {res3: 8, res4: 8, res5: 8}, norm_groups: 8}",
    "model.detector.encoder={num_layers: 1, feedforward_dim: 16, num_heads: 4}",
    "model.detector.decoder={num_layers: 1, feedforward_dim: 16, num_heads: 4}",
    "model.detector.queries.num_queries=10",
    "dataloader.train.total_batch_size=1",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.device=cpu",
]


def keys(cfg: DictConfig | ListConfig, path: str = "") -> list[str]:
    """All keys of a config, and the arguments that it leaves at their defaults."""
    found = []
    names = list(range(len(cfg))) if isinstance(cfg, ListConfig) else [name for name in cfg if name != "_target_"]
    names += [name for name in (arguments(cfg) or []) if name not in cfg] if isinstance(cfg, DictConfig) else []
    for name in names:
        key = f"{path}.{name}" if path else str(name)
        found.append(key)
        node = cfg._get_node(name) if isinstance(cfg, ListConfig) or name in cfg else None
        if isinstance(node, DictConfig | ListConfig) and not (node._is_none() or node._is_interpolation()):
            found += keys(node, key)
    return found


def attempt(cfg: DictConfig, override: str) -> str:
    """The override's end: "refused" or "used".

    Raises:
        Exception: it is neither, which is a fault.
    """
    cfg = copy.deepcopy(cfg)
    try:
        apply_overrides(cfg, [override])
        convert_values(cfg)
        check_config(cfg)
        resolve_calls(cfg, (*CLASSES, *SCHEDULE))
        cfg.optimizer.params.model = build_model(cfg)
        build(cfg, "optimizer")
        build(cfg, "lr_multiplier")
        for split in ("train", "test"):
            build(cfg, f"dataloader.{split}.mapper")
    except UserError as error:
        return "refused" if 0 < len(str(error)) < 1000 else f"message of {len(str(error))} characters"
    return "used"


def fuzz_overrides(count: int, seed: int, folder: Path) -> Counter:
    """How many of ``count`` overrides of the small DINO were refused and used; faults are collected by name."""
    generate(folder / "shapes", Recipe(train=4, val=2, size=64))
    shapes = [f"root={folder}/shapes", "train=4", "val=2", "size=64"]
    data = [f"dataloader.{split}.dataset.names.{value}" for split in ("train", "test") for value in shapes]
    cfg = read_config(str(CONFIGS / "dino/dino_tiny_shapes.py"), [*SMALL, *data, f"train.output_dir={folder}/out"])
    draw = random.Random(seed)
    names = keys(cfg)
    ends: Counter = Counter()
    for _ in range(count):
        override = f"{draw.choice(names)}={draw.choice(VALUES)}"
        try:
            ends[attempt(cfg, override)] += 1
        except Exception as error:
            ends[f"{override}: {type(error).__name__}: {error}"] += 1
    return ends


@pytest.mark.parametrize(("count", "seed"), [(150, 2), pytest.param(600, 1, marks=pytest.mark.slow)])
def test_overrides_are_refused_in_words_or_used(count, seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ends = fuzz_overrides(count, seed, tmp_path)
    assert set(ends) == {"refused", "used"}
