# SPDX-License-Identifier: Apache-2.0
"""Comparison of a single-scale detector's losses and assignments."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dino_d2.meta_arch import DETR

from .compare import Comparison
from .vectors import Vector

KINDS = {"loss_ce": "loss_class", "loss_bbox": "loss_bbox", "loss_giou": "loss_giou"}


def our_name(name: str) -> str:
    """Our name of a weighted loss; the authors put "tgt_" before those of denoising, we "_dn" behind."""
    part = "_dn" if name.startswith("tgt_") else ""
    kind, _, layer = (
        name.removeprefix("tgt_loss_").partition("_") if part else name.removeprefix("loss_").partition("_")
    )
    return KINDS[f"loss_{kind}"] + part + (f"_{layer}" if layer else "")


def compare_losses(comparison: Comparison, vector: Vector, losses: dict[str, Tensor]) -> None:
    """Every weighted loss and their sum."""
    weights = dict(zip(vector.file["weight_names"].tolist(), vector.file["weight_values"].tolist(), strict=True))
    names = vector.file["loss_names"].tolist()
    compared = set()
    for name, value in zip(names, vector["loss_values_f64"], strict=True):
        if name in weights:
            comparison.close(name, losses[our_name(name)], value * weights[name], relative=1e-5)
            compared.add(our_name(name))
    assert compared == set(losses), f"losses that the authors do not have: {set(losses) - compared}"
    total = torch.stack(list(losses.values())).sum()
    comparison.close("total_loss", total, vector["total_loss_f64"], relative=1e-5)


def compare_matches(comparison: Comparison, vector: Vector, model: DETR, prefix: str) -> None:
    """Cost and assignment of the stored predictions."""
    logits = torch.stack([vector[f"{prefix}{name}.pred_logits"] for name in vector.layers])
    boxes = torch.stack([vector[f"{prefix}{name}.pred_boxes"] for name in vector.layers])
    labels, targets = vector.targets
    matcher = model.criterion.matcher
    cost = matcher.cost(logits, boxes, pad_sequence(labels, True), pad_sequence(targets, True))
    matches = matcher(logits, boxes, labels, targets)
    for layer, name in enumerate(vector.layers):
        for image, count in enumerate(vector.meta["target_counts"]):
            where = f"{name}.img{image}"
            comparison.close(f"cost.{where}", cost[layer, image, :, :count], vector[f"cost.{where}"], 2e-5)
            own = matches.image == image
            pairs = torch.stack([matches.query[layer, own], matches.target[layer, own]])
            comparison.equal(f"match.{where}", pairs, vector[f"match.{where}"].long())
