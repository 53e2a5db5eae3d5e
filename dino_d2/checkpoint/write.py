# SPDX-License-Identifier: Apache-2.0
"""Converts checkpoints between this project's tensor names and those of IDEA-Research/DINO."""

import re
from pathlib import Path

import torch
from torch import Tensor

from dino_d2.errors import UserError
from dino_d2.files import check_regular, write_atomically

from .classes import num_classes
from .files import read_tensors
from .formats import DINO
from .layout import from_model, to_model
from .load import OWN, PREFIX, recognise, to_our_names, trim_label_embedding
from .rules import rename_back


def convert(source: str, target: str) -> str:
    """Convert one file: our own checkpoint to the authors' names, any other to ours.

    Args:
        source: as for `files.read_tensors`.
        target: PyTorch file to write, {"model": tensors}.

    Returns:
        a summary for the log.

    Raises:
        UserError: a tensor has no name in the other format, or the target cannot be written.
    """
    tensors = read_tensors(source)
    found = recognise(tensors, source)
    if found is OWN:
        converted, name = to_authors(tensors), DINO.name
    else:
        converted, unused = to_ours(tensors, source)
        name = OWN.name + "".join(f"\n  not used: {tensor}: {why}" for tensor, why in unused.items())
    _save({"model": converted}, Path(target))
    return f"{source} ({found.name}, {len(tensors)} tensors) -> {target} ({len(converted)} tensors) for {name}"


def _save(content: dict, target: Path) -> None:
    """Write a file atomically: the source, whose tensors may still lie in the file, can be the target too."""
    try:
        if target.exists():
            check_regular(target)
        write_atomically(target, lambda file: torch.save(content, file))
    except (OSError, RuntimeError) as error:
        # PyTorch closes its archive after the error of a full disk, and reports that this fails.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        raise UserError(f"{target} cannot be written: {cause}") from error


def to_authors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our checkpoint by the names of IDEA-Research/DINO, with all tensors that their strict loading requires.

    Raises:
        UserError: the model has parts that DINO does not have.
    """
    ours = from_model({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        names = rename_back(name, DINO.rules)
        if not names and not name.endswith("num_batches_tracked"):
            raise UserError(f"{DINO.name} has no counterpart of the tensor {name}; only DINO models can be converted")
        theirs |= dict.fromkeys(names, tensor)
    if "label_enc.weight" not in theirs:
        raise UserError(f"{DINO.name} has a label embedding, and this checkpoint has none; it is no DINO model")
    embedding = theirs["label_enc.weight"]
    theirs["label_enc.weight"] = torch.cat([embedding, torch.zeros_like(embedding[:1])])  # their unused last row
    return theirs | relative_position_indices(theirs)


def to_ours(tensors: dict[str, Tensor], source: str = "checkpoint") -> tuple[dict[str, Tensor], dict[str, str]]:
    """A published checkpoint by our names, for a model with its class count, and {its name: why} of unused tensors.

    Heads are shared where all layers' are equal, else each layer keeps its own.
    """
    checkpoint_format = recognise(tensors, source)
    renamed, _, unused = to_our_names(tensors, checkpoint_format)
    shared = {re.sub(r"(decoder\.(?:class|box)_head)\.\d+", r"\1", name) for name in renamed}
    placed, differing = to_model(renamed, shared)
    if differing:
        placed, _ = to_model(renamed, ())
    if classes := num_classes(placed):
        trim_label_embedding(placed, classes + checkpoint_format.unknown_class)
    return {PREFIX + name: tensor for name, tensor in placed.items()}, unused


def relative_position_indices(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The buffers that Swin's authors save with each relative position bias table [(2 w - 1)², heads].

    Entry [i, j] of a window's w² tokens is the table's row for the offset from token j to token i.
    """
    indices = {}
    for name, table in theirs.items():
        if name.endswith(".relative_position_bias_table"):
            side = (int(len(table) ** 0.5) + 1) // 2
            place = torch.cartesian_prod(torch.arange(side), torch.arange(side))  # [w², 2]
            offset = place[:, None] - place[None] + side - 1
            index = offset[..., 0] * (2 * side - 1) + offset[..., 1]
            indices[name.replace("bias_table", "index")] = index
    return indices
