# SPDX-License-Identifier: Apache-2.0
"""`train.compile` beside a running mean, accumulation and `--resume`."""

from pathlib import Path

import pytest
import torch

from tests.engine.test_resume import TINY
from tests.in_process import run_train_net

compile_module = torch.nn.Module.compile


@pytest.fixture
def compiled(monkeypatch) -> list[torch.nn.Module]:
    """The modules that are compiled; graphs are captured, and run without a compiler that takes minutes."""
    modules = []

    def compile_quickly(module, **options):
        modules.append(module)
        compile_module(module, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    return modules


def train(folder: Path, root: Path, *arguments: str, iterations: int = 3) -> dict:
    flags = [argument for argument in arguments if argument.startswith("--")]
    keys = [argument for argument in arguments if not argument.startswith("--")]
    data = [f"dataloader.train.dataset.names={{root: {root}, train: 6, val: 2, size: 64}}"]
    data.append("dataloader.test.dataset.names={train: 6, val: 2, size: 64}")
    run = [f"train.output_dir={folder}", f"train.max_iter={iterations}", "train.accumulate=2"]
    ema = ["train.ema.enabled=true", "train.ema.decay=0.5"]
    run_train_net(*TINY[:2], *flags, *TINY[2:], *data, *run, *ema, *keys)
    return torch.load(folder / "model_final.pth", weights_only=True)


def test_a_compiled_run_has_the_running_mean_of_an_ordinary_one_and_can_be_resumed(compiled, tmp_path):
    ordinary = train(tmp_path / "ordinary", tmp_path / "shapes")
    assert compiled == []
    with_compiler = train(tmp_path / "compiled", tmp_path / "shapes", "train.compile=true")
    assert len(compiled) == 1
    train(tmp_path / "resumed", tmp_path / "shapes", "train.compile=true", iterations=2)
    resumed = train(tmp_path / "resumed", tmp_path / "shapes", "--resume", "train.compile=true")
    for saved in (with_compiler, resumed):
        assert saved["model"].keys() == ordinary["model"].keys()
        weights = saved["trainer"]["trained_weights"]
        for name, mean in ordinary["model"].items():
            torch.testing.assert_close(saved["model"][name], mean)
            torch.testing.assert_close(weights[name], ordinary["trainer"]["trained_weights"][name])
    moved = [n for n, mean in ordinary["model"].items() if not mean.equal(ordinary["trainer"]["trained_weights"][n])]
    assert moved
