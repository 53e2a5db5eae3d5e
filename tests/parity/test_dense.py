"""Single-scale detectors: every number of a forward pass, and one training step where the vector has one."""

import pytest
import torch

from .dense_forward import compare_detections, compare_parts, compare_predictions, compare_references, run
from .dense_losses import compare_losses, compare_matches
from .dense_model import build_model
from .gradients import compare_gradients

SYSTEMS = ("detr", "conditional_detr", "anchor_detr", "dab_detr")


@torch.no_grad()
def test_forward(vector, comparison):
    model = build_model(vector)
    output, recorder = run(model, vector)
    compare_parts(comparison, vector, recorder)
    compare_predictions(comparison, vector, output)
    compare_references(comparison, vector, output, recorder)
    compare_detections(comparison, vector, model)
    comparison.finish()


def test_training_step(vector, comparison):
    if "train" not in vector.meta["mode"]:
        pytest.skip("this vector is of evaluation alone")
    model = build_model(vector).train()
    output, _ = run(model, vector)
    compare_predictions(comparison, vector, output)
    compare_matches(comparison, vector, model, "")
    losses = model.criterion(output, *vector.targets)
    compare_losses(comparison, vector, losses)
    sum(losses.values()).backward()
    compare_gradients(comparison, vector, model)
    comparison.finish()
