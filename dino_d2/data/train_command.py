# SPDX-License-Identifier: Apache-2.0
"""The command that trains on a dataset, for the machine that it is printed on."""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import torch

from dino_d2.data.check import DatasetError
from dino_d2.data.folders import find_images, find_json
from dino_d2.data.split_names import split_of

#: Learns from random weights on any machine.
FROM_SCRATCH = "configs/dino/dino_small_custom.py"
#: Needs weights that were trained on COCO, and a GPU.
FINE_TUNING = "configs/dino/dino_r50_4scale_custom.py"
#: Bytes of GPU memory that the fine-tuning recipe should have: four images of 800 x 1333 pixels in a step.
_MEMORY_FOR_FINE_TUNING = 14 * 2**30


def how_to_train(keys: Mapping[str, Path]) -> str:
    """The commands that this machine can run, quoted for a POSIX shell.

    Args:
        keys: where the data is, such as {"data.root": folder}.
    """
    from_scratch = f"To train from scratch:\n  {train_command(FROM_SCRATCH, keys)}"
    if not _can_fine_tune():
        return from_scratch
    command = train_command(FINE_TUNING, keys)
    return f"{from_scratch}\nTo fine-tune a checkpoint of COCO:\n  {command} train.init_checkpoint=coco.pth"


def train_command(recipe: str, keys: Mapping[str, Path]) -> str:
    """The command line of a training, quoted for a shell and for the grammar of overrides."""
    overrides = [shlex.quote(f"{key}={quoted(str(path))}") for key, path in keys.items()]
    return " ".join(["python train_net.py --config-file", recipe, *overrides])


def how_to_train_on(json: Path, images: Path, train: tuple[Path, Path] | None = None) -> str:
    """:func:`how_to_train` for an annotation file; "" for one of a test set.

    Args:
        json, images: of a training set, or of a validation set as its name says or where `train` is given.
        train: annotation file and images of the training set.
    """
    split = split_of(json.stem) or split_of(json.parent.name)
    if split == "test":
        return ""
    given = {"train": train or (json, images)}
    if train or split == "val":
        given = {"val": (json, images), **({"train": train} if train else {})}
    if root := _root_of(given):
        return how_to_train({"data.root": root})
    keys = {
        key: path
        for name in ("train", "val")
        if name in given
        for key, path in zip((f"data.{name}.json", f"data.{name}.images"), given[name], strict=True)
    }
    missing = next((name for name in ("train", "val") if name not in given), None)
    if missing is None:
        return how_to_train(keys)
    command = train_command(FROM_SCRATCH, keys)
    return f"To train:\n  {command} data.{missing}.json=FILE data.{missing}.images=FOLDER"


def _root_of(given: Mapping[str, tuple[Path, Path]]) -> Path | None:
    """The folder in which `data.root` finds these pairs of annotation file and images, and those of the other split."""
    json, images = next(iter(given.values()))
    for root in dict.fromkeys(Path(os.path.abspath(folder)) for folder in (json.parent.parent, json.parent, images)):
        try:
            files = {split: find_json(root, split) for split in ("train", "val")}
            found = {split: (file, find_images(file, root, split)) for split, file in files.items()}
        except DatasetError:
            continue
        if all(_resolved(found[split]) == _resolved(pair) for split, pair in given.items()):
            return root
    return None


def quoted(value: str) -> str:
    """A path as the value of an override, which is read in Hydra's grammar: in quotes where it has special signs."""
    if re.fullmatch(r"[A-Za-z0-9_./+-]*[A-Za-z_/][A-Za-z0-9_./+-]*", value):
        return value
    # In quotes, a backslash is literal unless it precedes a quote.
    return '"' + re.sub(r'(\\*)(?="|$)', r"\1\1", value).replace('"', '\\"') + '"'


def _resolved(pair: tuple[Path, Path]) -> tuple[Path, Path]:
    return pair[0].resolve(), pair[1].resolve()


def _can_fine_tune() -> bool:
    return torch.cuda.is_available() and (torch.cuda.get_device_properties(0).total_memory >= _MEMORY_FOR_FINE_TUNING)
