"""DINO, one training step: predictions, losses, matching and the gradient of every parameter."""

import torch

from .dino_forward import compare_forward, run
from .dino_losses import compare_losses, compare_matches
from .dino_model import build_model, parameters_by_rule_name, stored_denoising

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


def compare_gradients(comparison, vector, model):
    parameters = parameters_by_rule_name(vector, model)
    assert {n for n, p in parameters.items() if p.requires_grad} == set(vector.file["grad_names"].tolist())
    assert {n for n, p in parameters.items() if not p.requires_grad} == set(vector.meta["frozen"])
    for name, norm, total in zip(
        vector.file["grad_names"], vector["grad_norm_f64"], vector["grad_sum_f64"], strict=True
    ):
        gradient = parameters[str(name)].grad
        assert gradient is not None, f"{name} has no gradient"
        gradient = gradient.double()
        comparison.within(f"grad_norm {name}", gradient.norm(), norm, 1e-3 * norm)
        comparison.within(f"grad_sum {name}", gradient.sum(), total, 1e-3 * norm * gradient.numel() ** 0.5)
    assert torch.isfinite(vector["grad_norm_f64"]).all()
