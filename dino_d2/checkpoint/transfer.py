# SPDX-License-Identifier: Apache-2.0
"""Transfers class heads from one set of classes to another by class name.

    python -m dino_d2.checkpoint.transfer objects365.pth coco.pth --dataset coco_2017_val

Classes of the same name keep their weights: DINO's Objects365 model knows most of COCO's 80 classes.
"""

import argparse
import math
import re
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from dino_d2.data.coco_format import categories
from dino_d2.errors import UserError

from .classes import has_rows, num_classes
from .files import read_categories, read_tensors
from .load import PREFIX

#: COCO classes with an unrelated name in Objects365 (version 2), spelt as in its json.
ALIASES = {
    "bird": "wild bird",
    "dining table": "dinning table",
    "hair drier": "hair dryer",
    "skis": "skiboard",
    "sports ball": "other balls",
    "suitcase": "luggage",
    "teddy bear": "stuffed toy",
}


def same_names(sources: Sequence[str], targets: Sequence[str]) -> list[int | None]:
    """For each target class the source class of the same name, None where there is none.

    Letter case and spaces are ignored, "Handbag/Satchel" matches both of its names, and `ALIASES` are tried last. A
    match of the full name takes precedence over a match of a part.
    """
    whole: dict[str, int] = {}
    parts: dict[str, int] = {}
    for index, name in enumerate(sources):
        whole.setdefault(plain(name), index)
        for part in name.split("/"):
            parts.setdefault(plain(part), index)
    found = []
    for target in targets:
        tries = [plain(target), plain(ALIASES.get(target.lower(), target))]
        found.append(next((names[name] for name in tries for names in (whole, parts) if name in names), None))
    return found


def plain(name: str) -> str:
    """Only the letters and digits, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def transfer_classes(tensors: dict[str, Tensor], sources: Sequence[str], targets: Sequence[str]) -> dict[str, Tensor]:
    """Class heads and label embedding with a row for each target class; all other tensors unchanged.

    A class without a counterpart is initialised: zero weights and a bias of probability 0.01 in the heads, the mean of
    all classes in the label embedding. A row after the classes, the "unknown" one of DN-DETR's embedding, is kept.

    Args:
        tensors: of a detector with sigmoid classes, one a source class.
        sources, targets: class names in the order of the models' outputs.

    Raises:
        UserError: the tensors have another number of classes than ``sources``.
    """
    found = num_classes({name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()})
    if found != len(sources):
        raise UserError(f"the checkpoint has {found} classes, but {len(sources)} names are given for them")
    rows = same_names(sources, targets)
    known = torch.tensor([i for i, row in enumerate(rows) if row is not None], dtype=torch.int64)
    taken = torch.tensor([row for row in rows if row is not None], dtype=torch.int64)
    result = dict(tensors)
    for name, tensor in tensors.items():
        if has_rows(name.removeprefix(PREFIX), tensor, found):
            fresh = tensor.new_zeros(len(targets), *tensor.shape[1:])
            if name.endswith("bias"):
                fresh.fill_(-math.log(0.99 / 0.01))
            elif "label_embedding" in name:
                fresh[:] = tensor[: len(sources)].mean(0)
            fresh[known] = tensor[taken]
            result[name] = torch.cat([fresh, tensor[len(sources) :]])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dino_d2.checkpoint.transfer", description=__doc__.split("\n")[0])
    parser.add_argument("source", help="checkpoint of a run of this project, which names its classes")
    parser.add_argument("target", help="file to write")
    parser.add_argument("--dataset", default="coco_2017_val", help="registered dataset with the wanted classes")
    options = parser.parse_args()
    try:
        transfer(options.source, options.target, options.dataset)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def transfer(source: str, target: str, dataset: str) -> None:
    """Write ``source`` with the classes of ``dataset`` to ``target``, and print which classes were transferred.

    Raises:
        UserError: the source is no checkpoint, or one of the two has no class names.
    """
    named = read_categories(source)
    wanted = categories(dataset)
    if not named:
        raise UserError(f"{source} does not name its classes; a run of this project writes them into its files")
    if not wanted:
        raise UserError(f"the dataset {dataset} is not registered with class names")
    sources, targets = [c["name"] for c in named], [c["name"] for c in wanted]
    tensors = transfer_classes(read_tensors(source), sources, targets)
    torch.save({"model": tensors, "categories": wanted}, target)
    fresh = [name for name, row in zip(targets, same_names(sources, targets), strict=True) if row is None]
    print(f"{target}: {len(targets) - len(fresh)} of {len(targets)} classes taken over by name")
    if fresh:
        print(f"  new: {', '.join(fresh)}")


if __name__ == "__main__":
    main()
