# SPDX-License-Identifier: Apache-2.0
"""DINO, one training step: predictions, losses, matching and the gradient of every parameter."""

from .dino_forward import compare_forward, run
from .dino_losses import compare_losses, compare_matches
from .dino_model import build_model, stored_denoising
from .gradients import compare_gradients

KIND = "DINO train"


def test_training_step(vector, comparison):
    model = build_model(vector).train()
    denoising = stored_denoising(vector)
    labels, boxes = vector.targets
    output, recorder = run(model, vector, denoising)
    num_slots = denoising.target.shape[1]
    compare_forward(comparison, vector, model, output, recorder, num_slots)
    comparison.equal(
        "dn.attn_mask", denoising.attention_mask(vector.args["num_queries"]), vector["dn.attn_mask"].bool()
    )
    compare_matches(comparison, vector, model.criterion, output, num_slots)

    losses = model.criterion(output, labels, boxes, denoising)
    compare_losses(comparison, vector, losses)
    sum(losses.values()).backward()
    compare_gradients(comparison, vector, model)
    comparison.finish()
