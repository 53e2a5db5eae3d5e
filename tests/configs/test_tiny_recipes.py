# SPDX-License-Identifier: Apache-2.0
"""Every small recipe trains: a few steps from random weights, with and without objects, and detections after them."""

import pytest
import torch

from dino_d2.detectron2.config import LazyConfig, instantiate
from tests.paths import CONFIGS

RECIPES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("*/*_tiny_shapes.py"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_few_steps(recipe, make_input):
    torch.manual_seed(0)
    cfg = LazyConfig.load(str(CONFIGS / recipe))
    model = instantiate(cfg.model).train()
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    batch = [make_input(64, 96, objects=n, seed=n) for n in (3, 0)]
    totals = []
    for _ in range(4):
        losses = model(batch)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        untouched = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not untouched, "DistributedDataParallel would wait for their gradients"
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    assert all(total.isfinite() for total in totals)
    assert totals[-1] < totals[0]
    empty = model([make_input(64, 64, objects=0)])
    assert all(loss.isfinite() for loss in empty.values())
    detected = model.eval()([make_input(64, 96)])[0]["instances"]
    assert len(detected) > 0
    assert detected.pred_boxes.tensor.isfinite().all()
