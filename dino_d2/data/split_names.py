# SPDX-License-Identifier: Apache-2.0
"""Which split a file or folder belongs to, by the words of its name."""

import re

#: Words that name a split; each must stand alone in a name, so that "valley" and "trainval" name none.
_WORDS = {
    "train": "train",
    "training": "train",
    "trainset": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "valset": "val",
    "test": "test",
    "testing": "test",
    "testset": "test",
}


def splits_in(name: str) -> set[str]:
    """The splits ("train", "val", "test") that are named by the words of a name.

    Words end at digits, signs and capital letters: "instances_train2017.json" is of training, "valSet" of validation.
    """
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return {_WORDS[word.lower()] for word in words if word.lower() in _WORDS}


def split_of(name: str) -> str | None:
    """The only split in a name; None if there is none, or several as in "train_and_val"."""
    splits = splits_in(name)
    return splits.pop() if len(splits) == 1 else None
