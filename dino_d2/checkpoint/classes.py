# SPDX-License-Identifier: Apache-2.0
"""Loads class heads of a checkpoint whose class count differs from the model's."""

import re

import torch
from torch import Tensor

#: The 80 of the numbers 1..90 that are COCO categories, in order: class c of an 80-class model is COCO_CATEGORY_IDS[c].
COCO_CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})

#: The tensors whose first dimension counts classes.
CLASS_TENSOR = re.compile(r"(.*\.)?class_head\.(\d+\.)?(weight|bias)|label_embedding\.weight")


def num_classes(tensors: dict[str, Tensor]) -> int | None:
    """Classes of a detector's state dict, or None where it has no class head."""
    biases = (t for n, t in tensors.items() if re.fullmatch(r"decoder\.class_head\.(\d+\.)?bias", n))
    return next((len(bias) for bias in biases if bias.dim() == 1), None)


def has_rows(name: str, tensor: Tensor, count: int) -> bool:
    """Whether the rows of a tensor are at least ``count`` classes; a damaged file or an objectness head has fewer."""
    return CLASS_TENSOR.fullmatch(name) is not None and tensor.dim() > 0 and len(tensor) >= count


def fit_classes(tensors: dict[str, Tensor], wanted: int, no_object: bool = False) -> tuple[dict[str, Tensor], str]:
    """Convert class heads and label embedding to ``wanted`` classes, where the classes correspond.

    Between 91 classes, numbered by COCO category id, and COCO's 80 contiguous classes, rows are mapped by COCO's
    category list; a softmax head has one more row, for "no object". With other class counts the classes
    differ, and these tensors are omitted, so that the model keeps its initial values.

    Args:
        tensors: by the model's names without the prefix "detector.", with another class count than ``wanted``.
        wanted: rows of the model's class head.
        no_object: whether the last row, here and in the checkpoint, is "no object".

    Returns:
        the tensors, and a short description of the change.
    """
    found = num_classes(tensors)
    if (found, wanted) in ((91, 80), (92, 81)):
        mapped = {name: gather(tensor) for name, tensor in tensors.items() if has_rows(name, tensor, 91)}
        return tensors | mapped, "91 COCO category ids mapped to the 80 classes"
    if (found, wanted) in ((80, 91), (81, 92)):
        wide = {name: tensor for name, tensor in tensors.items() if has_rows(name, tensor, 80)}
        mapped = {name: spread(tensor, name.endswith("bias")) for name, tensor in wide.items()}
        return tensors | mapped, "80 COCO classes mapped to the 91 category ids"
    here, there = wanted - no_object, found and found - no_object
    others = {name: tensor for name, tensor in tensors.items() if not CLASS_TENSOR.fullmatch(name)}
    return others, f"class heads and label embedding are re-initialised for {here} classes; the checkpoint has {there}"


def gather(tensor: Tensor) -> Tensor:
    """Map 91 rows to 80; rows after them, such as "no object", stay last."""
    return torch.cat([tensor[torch.tensor(COCO_CATEGORY_IDS)], tensor[91:]])


def spread(tensor: Tensor, is_bias: bool) -> Tensor:
    """Map 80 rows to 91; ids without a category get zeros, and a bias so low that they are never predicted."""
    rows = tensor.new_full((91, *tensor.shape[1:]), -100.0 if is_bias else 0.0)
    rows[torch.tensor(COCO_CATEGORY_IDS)] = tensor[:80]
    return torch.cat([rows, tensor[80:]])
