# SPDX-License-Identifier: Apache-2.0
"""CONTRIBUTING: the order of files that a batch enters, and the example of a new detector, which trains and detects."""

import importlib
import os
import re
import shutil
import sys

import pytest
import torch

import dino_d2.modeling
from dino_d2.detectron2.config import LazyConfig, instantiate
from dino_d2.modeling import queries
from tests.paths import CONFIGS, ROOT

PART, RECIPE = "dino_d2/modeling/queries/box_grid.py", "configs/dino/dino_tiny_shapes_box_grid.py"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """A folder with the example's files; its part is exported as the page says."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", page, re.M | re.S))
    assert set(files) == {PART, RECIPE}
    shutil.copytree(CONFIGS, tmp_path / "configs")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr(queries, "__path__", [*queries.__path__, str((tmp_path / PART).parent)])
    part = importlib.import_module("dino_d2.modeling.queries.box_grid")
    monkeypatch.delitem(importlib.sys.modules, part.__name__)
    monkeypatch.setattr(dino_d2.modeling, "BoxGridQueries", part.BoxGridQueries, raising=False)
    yield tmp_path
    del queries.box_grid


def test_a_batch_enters_the_files_in_the_order_of_the_page(make_model, make_input):
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page[page.index("| step | files |") :].split("\n\n")[0]
    package = f"{ROOT / 'dino_d2'}{os.sep}"
    entered = []

    def record(frame, event, _):
        file = frame.f_code.co_filename.removeprefix(package).replace(os.sep, "/")
        if event == "call" and file.startswith(("meta_arch/", "modeling/", "denoising.py")) and file not in entered:
            entered.append(file)

    model, batch = make_model(), [make_input()]
    for mode in (True, False):
        model.train(mode)
        sys.setprofile(record)
        try:
            model(batch)
        finally:
            sys.setprofile(None)
    assert re.findall(r"`(\S+\.py)`", table) == entered


def test_the_example_trains_and_detects(example, make_input):
    torch.manual_seed(0)
    cfg = LazyConfig.load(str(example / RECIPE))
    model = instantiate(cfg.model)
    assert model.detector.queries.anchors[[0, -1]].tolist() == [[1 / 16] * 2 + [1 / 8] * 2, [15 / 16] * 2 + [1 / 8] * 2]
    assert "detector.queries.anchors" not in model.state_dict()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    losses = model.train()([make_input(64, 96, objects=2, seed=n) for n in (0, 1)])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    optimizer.step()
    assert any(not p.equal(old) for p, old in zip(model.parameters(), before, strict=True))
    (output,) = model.eval()([make_input(64, 96)])
    assert output["queries"].anchors.shape == (64, 4)
    assert len(output["instances"]) > 0
    assert output["instances"].pred_boxes.tensor.isfinite().all()
