# SPDX-License-Identifier: Apache-2.0
"""Single-scale detectors: every number of a forward pass, and one training step where the vector has one."""

import pytest
import torch

from .dense_forward import (
    compare_detections,
    compare_parts,
    compare_predictions,
    compare_query_content,
    compare_references,
    run,
)
from .dense_losses import compare_losses, compare_matches
from .dense_model import build_model
from .dn_denoising import compare_denoising, make_denoising
from .gradients import compare_gradients

SYSTEMS = ("detr", "conditional_detr", "anchor_detr", "dab_detr", "dn_dab_detr")


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
    denoising, slots, prefix = None, 0, ""
    if model.denoising is not None:
        denoising = make_denoising(vector, model.denoising)
        slots, prefix = denoising.target.shape[1], "train_"
    output, recorder = run(model, vector, denoising)
    compare_predictions(comparison, vector, output, slots, prefix)
    if denoising is not None:
        compare_denoising(comparison, vector, denoising, output.logits.shape[2] - slots)
        compare_query_content(comparison, vector, model, recorder.content)
    compare_matches(comparison, vector, model, prefix)
    losses = model.criterion(output, *vector.targets, denoising)
    compare_losses(comparison, vector, losses)
    sum(losses.values()).backward()
    compare_gradients(comparison, vector, model)
    comparison.finish()
