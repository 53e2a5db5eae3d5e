# SPDX-License-Identifier: Apache-2.0
"""Name rules: from the tensor names of a published checkpoint to ours.

A rule is a pair (their name, our name). ``{}`` stands for a number, the same on both sides and in the same order. A
name that ends in a dot stands for all names below it, whose remaining parts are kept:

    ("transformer.encoder.layers.{}.norm1.", "encoder.layers.{}.norm.")

renames ``transformer.encoder.layers.3.norm1.bias`` to ``encoder.layers.3.norm.bias``. The first rule that
matches is used. In the other direction, from our names to theirs, all rules that match are used, because some
checkpoints store a shared tensor under several names.
"""

import re
from collections.abc import Sequence
from functools import cache

Rule = tuple[str, str]


def rename(name: str, rules: Sequence[Rule]) -> str | None:
    """Our name of their tensor, or None where no rule fits."""
    for theirs, ours in rules:
        renamed = apply_rule(name, theirs, ours)
        if renamed is not None:
            return renamed
    return None


def rename_back(name: str, rules: Sequence[Rule]) -> list[str]:
    """Every name that our tensor has in their checkpoints; empty where it has none."""
    renamed = [apply_rule(name, ours, theirs) for theirs, ours in rules]
    return [r for r in renamed if r is not None]


def apply_rule(name: str, source: str, target: str) -> str | None:
    """Rename by one rule, or None where ``source`` does not fit."""
    match = compile_source(source).fullmatch(name)
    if match is None:
        return None
    *numbers, tail = match.groups()
    return target.format(*numbers) + tail


@cache
def compile_source(source: str) -> re.Pattern:
    """Regular expression of one side of a rule; its groups are the numbers and, last, the rest of the name."""
    pattern = re.escape(source).replace(r"\{\}", r"(\d+)")
    return re.compile(pattern + ("(.+)" if source.endswith(".") else "()"))
