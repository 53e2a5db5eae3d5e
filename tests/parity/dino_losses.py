# SPDX-License-Identifier: Apache-2.0
"""Comparison of DINO's losses, and of the assignments behind them."""

import torch

from .vectors import Vector

KINDS = {"loss_ce": "loss_class", "loss_bbox": "loss_bbox", "loss_giou": "loss_giou"}


def our_name(name: str) -> str | None:
    """Our name of a loss, None for what the authors only log."""
    kind = "_".join(name.split("_")[:2])
    if kind not in KINDS:
        return None
    return KINDS[kind] + name.removeprefix(kind).replace("_interm", "_enc")


def compare_losses(comparison, vector: Vector, losses: dict) -> None:
    """Every weighted loss and their sum; the authors' denoising losses are zero where there is no denoising."""
    weights = dict(zip(vector.file["weight_names"].tolist(), vector.file["weight_values"].tolist(), strict=True))
    values = vector["loss_values_f64"] if "loss_values_f64" in vector else vector["loss_values"].double()
    compared = set()
    for name, value in zip(vector.file["loss_names"].tolist(), values, strict=True):
        ours = our_name(name)
        if ours is None:
            continue
        if ours not in losses and "_dn" in ours:
            assert value == 0, f"{name} is {value}, and we have no such loss"
            continue
        comparison.close(name, losses[ours], value * weights[name], relative=1e-5)
        compared.add(ours)
    assert compared == set(losses), f"losses that the authors do not have: {set(losses) - compared}"
    total = vector["total_loss_f64"] if "total_loss_f64" in vector else vector["total_loss"].double()
    comparison.close("total_loss", torch.stack(list(losses.values())).sum(), total, relative=1e-5)


def compare_matches(comparison, vector: Vector, criterion, output, num_slots: int) -> None:
    """Hungarian matching of every layer and of the proposals."""
    names = vector.layers
    logits, boxes = output.logits[:, :, num_slots:], output.boxes[:, :, num_slots:]
    if output.proposals is not None:
        names = [*names, "interm"]
        logits = torch.cat([logits, output.proposals.logits[None]])
        boxes = torch.cat([boxes, output.proposals.boxes[None]])
    matches = criterion.matcher(logits, boxes, *vector.targets)
    for layer, name in enumerate(names):
        for image in range(len(vector.meta["target_counts"])):
            own = matches.image == image
            pairs = torch.stack([matches.query[layer, own], matches.target[layer, own]])
            comparison.equal(f"match.{name}.img{image}", pairs, vector[f"match.{name}.img{image}"].long())
