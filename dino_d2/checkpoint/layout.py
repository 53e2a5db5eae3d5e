# SPDX-License-Identifier: Apache-2.0
"""Converts between the names of the format rules, which number every level and layer, and a given model's names."""

import re
from collections.abc import Collection, Iterable

import torch
from torch import Tensor

HEAD = re.compile(r"decoder\.(class_head|box_head)\.(\d+)\.(.+)")
SHARED_HEAD = re.compile(r"decoder\.(class_head|box_head)\.(?!\d)(.+)")
LEVEL = re.compile(r"neck\.levels\.(\d+)\.(.+)")
NECK = re.compile(r"neck\.(projections|extra_levels)\.(\d+)\.(.+)")


def to_model(tensors: dict[str, Tensor], model_names: Collection[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Rename levels and heads to the names that the model has.

    ``neck.levels.i`` are the backbone's stages, projected by 1×1 convolutions, followed by the levels the neck adds.
    Where the model shares one head among its layers, the last layer's head is loaded, since it predicts the detections.

    Args:
        tensors: by the names of `formats`.
        model_names: names of the model's tensors, without the prefix "detector.".

    Returns:
        tensors by the model's names, and {name: why} of those that differ from the shared head.
    """
    num_stages = sum(
        tensor.shape[2:] == (1, 1)
        for name, tensor in tensors.items()
        if re.fullmatch(r"neck\.levels\.\d+\.0\.weight", name)
    )
    num_layers = count(tensors, r"decoder\.layers\.(\d+)\..+")
    placed: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    for name in sorted(tensors, key=head_layer, reverse=True):
        target = name
        if match := LEVEL.fullmatch(name):
            level = int(match[1])
            place = f"projections.{level}" if level < num_stages else f"extra_levels.{level - num_stages}"
            target = f"neck.{place}.{match[2]}"
        elif match := HEAD.fullmatch(name):
            kind, layer, rest = match[1], int(match[2]), match[3]
            if layer == num_layers:  # one head more than layers: the proposals' head, as in Deformable DETR
                target = f"queries.proposal_head.{kind}.{rest}"
            elif f"decoder.{kind}.{rest}" in model_names:
                target = f"decoder.{kind}.{rest}"
        if target not in placed:
            placed[target] = tensors[name]
        elif not torch.equal(placed[target], tensors[name]):
            unused[name] = "differs from the last layer's head, which the model shares among all layers"
    return placed, unused


def from_model(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: a model's tensors, without the prefix "detector.", by the names of `formats`."""
    num_stages = count(tensors, r"neck\.projections\.(\d+)\..+")
    num_layers = count(tensors, r"decoder\.layers\.(\d+)\..+")
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if match := NECK.fullmatch(name):
            level = int(match[2]) + (num_stages if match[1] == "extra_levels" else 0)
            named[f"neck.levels.{level}.{match[3]}"] = tensor
        elif match := SHARED_HEAD.fullmatch(name):
            named |= {f"decoder.{match[1]}.{layer}.{match[2]}": tensor for layer in range(num_layers)}
        else:
            named[name] = tensor
    return named


def head_layer(name: str) -> int:
    """Decoder layer of a head's tensor, 0 for all others."""
    match = HEAD.fullmatch(name)
    return int(match[2]) if match else 0


def count(names: Iterable[str], pattern: str) -> int:
    """Number of list entries among the names: the largest number that ``pattern`` matches, plus one."""
    matches = (re.fullmatch(pattern, name) for name in names)
    return max((int(match[1]) for match in matches if match), default=-1) + 1
