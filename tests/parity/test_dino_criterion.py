# SPDX-License-Identifier: Apache-2.0
"""DINO's criterion alone on random predictions, with the gradient of every prediction."""

import torch

from dino_d2.denoising import DenoisingQueries, lay_out
from dino_d2.modeling import DetectorOutput
from dino_d2.modeling.contracts import Proposals

from .dino_losses import compare_losses, compare_matches
from .dino_model import build_criterion

KIND = "DINO criterion"


def test_criterion(vector, comparison):
    criterion = build_criterion(vector.args)
    labels, boxes = vector.targets
    groups = vector.meta["dn_num_group"]
    denoising = random_denoising(vector.meta["target_counts"], groups) if groups else None
    num_slots = 0 if denoising is None else denoising.target.shape[1]
    assert num_slots == vector.meta["dn_pad_size"]

    leaves = {n: vector[n].requires_grad_() for n in vector.names if n.split(".")[0] + ".pred_logits" in vector}
    output = assemble(vector, leaves, with_denoising=denoising is not None)
    losses = criterion(output, labels, boxes, denoising)
    compare_losses(comparison, vector, losses)
    compare_matches(comparison, vector, criterion, output, num_slots)

    torch.stack(list(losses.values())).sum().backward()
    for name, leaf in leaves.items():
        want = vector[f"grad.{name}"]
        comparison.close(f"grad.{name}", leaf.grad, want, 1e-6 * float(want.abs().max()), 1e-4)
    comparison.finish()


def random_denoising(counts, groups):
    """Slots as the authors lay them out; what was noised to what plays no part in the losses."""
    target, positive, group = lay_out(counts, [groups] * len(counts), copies=2)
    return DenoisingQueries(
        labels=torch.zeros_like(target),
        boxes=torch.zeros(*target.shape, 4),
        target=target,
        positive=positive & (target >= 0),
        group=group,
        num_positives=sum(counts) * groups,
    )


def assemble(vector, leaves, with_denoising):
    def stack(part):
        layers = [leaves[f"{name}.{part}"] for name in vector.layers]
        if with_denoising:
            slots = [leaves[f"dn_{name}.{part}"] for name in vector.layers]
            layers = [torch.cat(pair, dim=1) for pair in zip(slots, layers, strict=True)]
        return torch.stack(layers)

    none = torch.empty(0)
    proposals = None
    if "interm.pred_logits" in leaves:
        proposals = Proposals(none, none, leaves["interm.pred_logits"], none, leaves["interm.pred_boxes"])
    return DetectorOutput(stack("pred_logits"), stack("pred_boxes"), none, proposals)
