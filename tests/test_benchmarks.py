# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, and write what their readers expect."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
TINY = ["--config-file", "configs/dino/dino_tiny_shapes.py", "--size", "64", "96", "--batch", "1", "--seconds", "0.01"]
CASE = {"config": "configs/dino/dino_tiny_shapes.py", "case": "64x96", "batch": 1, "dtype": "float32", "device": "cpu"}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a benchmark's main in this process and returns what it wrote as JSON."""

    def run(name: str, *arguments: str) -> dict:
        monkeypatch.syspath_prepend(BENCHMARKS)
        monkeypatch.chdir(BENCHMARKS.parent)
        module = __import__(name)
        # A process of its own, for honest memory, takes seconds to start.
        monkeypatch.setattr(module, "in_fresh_process", lambda function, *inputs: function(*inputs), raising=False)
        monkeypatch.setattr(module, "fresh_process", lambda: ThreadPoolExecutor(1), raising=False)
        # ... and the allocator's setting would stay for the rest of the tests.
        monkeypatch.setattr("recipes.keep_freed_memory", lambda: False)
        monkeypatch.setattr(sys, "argv", [name, *arguments, "--json", str(tmp_path / "out.json")])
        module.main()
        return json.loads((tmp_path / "out.json").read_text())

    return run


def test_inference(run, capsys):
    written = run("inference", *TINY, "--dtype", "float32")
    assert "torch" in written["machine"]
    rows = {row["implementation"]: row for row in written["rows"]}
    assert list(rows) == ["ours", "composite", "composite_op", "floor"]
    assert all(row.items() >= CASE.items() for row in rows.values())
    assert all(row["latency_ms"] > 0 for row in rows.values())
    assert rows["floor"]["latency_ms"] < rows["ours"]["latency_ms"]
    assert rows["ours"]["peak_mib"] >= 0
    assert rows["floor"]["peak_mib"] is None
    assert "composite" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["inference", "train_step"])
def test_a_misspelt_key_is_an_error(run, name):
    with pytest.raises(SystemExit, match=r"nm_classes: the config has no such key.*num_classes"):
        run(name, "model.detector.nm_classes=3")


def test_train_step(run):
    written = run("train_step", *TINY, "--dtype", "float32")
    rows = {row["implementation"]: row for row in written["rows"]}
    assert list(rows) == ["ours", "composite", "composite_kept", "composite_op"]
    for row in rows.values():
        assert row.items() >= CASE.items()
        parts = [row[f"{part}_ms"] for part in ("data", "forward", "matching", "backward", "optimizer")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(row["step_ms"])
    assert rows["ours"]["images_per_second_per_worker"] > 0


class Products(TorchDispatchMode):
    """Shapes of the factors of every convolution and matrix product, seen without any counter of PyTorch's."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function._schema.name.split("::")[1] in ("convolution", "addmm", "mm", "bmm", "_linear_pointwise"):
            factors = [x for x in arguments if isinstance(x, torch.Tensor) and x.dim() > 1]  # without the bias
            self.seen.append(tuple(tuple(x.shape) for x in factors))
        return function(*arguments, **(keywords or {}))


def test_the_floor_repeats_every_product_once(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from floor import products_of

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(2), torch.nn.Linear(4, 5))
    query = torch.rand(1, 2, 6, 4)

    def work():
        model(torch.rand(1, 3, 4, 4))
        torch.nn.functional.scaled_dot_product_attention(query, query, query)

    with torch.no_grad():
        repeat = products_of(work)
        with Products() as products:
            repeat()
    convolution, linear, scores, values = products.seen
    assert convolution == ((1, 3, 4, 4), (4, 3, 3, 3))
    assert linear[0] == (4, 4)
    assert set(linear[1]) == {4, 5}
    assert scores == ((2, 6, 4), (2, 4, 6))
    assert values == ((2, 6, 6), (2, 6, 4))


@pytest.mark.large_memory
def test_a_fresh_process_computes_with_as_many_threads(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from measure import in_fresh_process

    assert in_fresh_process(torch.get_num_threads) == torch.get_num_threads()


@pytest.mark.slow
def test_gpu_suite(run, monkeypatch):
    """Its plumbing; the figures need a GPU. Compilation, which takes long, is left out."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **_: None)
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(__import__("inference"), "in_fresh_process", lambda function, *inputs: function(*inputs))
    monkeypatch.setattr(__import__("train_step"), "fresh_process", lambda: ThreadPoolExecutor(1))
    written = run("gpu_suite", "--device", "cpu", "--quick")
    assert {row["implementation"] for row in written["op"]} >= {"ours", "composite"}
    for table in ("inference", "train_step"):
        assert {(row["dtype"], row["compiled"]) for row in written[table]} == {
            (dtype, compiled) for dtype in ("float32", "bfloat16") for compiled in (False, True)
        }
    assert written["synchronisations"] is None
