# SPDX-License-Identifier: Apache-2.0
"""Which image and class of the ground truth a detection belongs to.

Results name images by id. The ids are those of the ground truth only if whatever made the results has read it: a
program that detects in a folder numbers the files itself. So file names decide where results have them:

* if every name belongs to the image with its id, ids and names agree;
* otherwise the images are joined by name: by as many folders of the path as distinguish them, and by the name without
  its ending if no image has the ending too. Images that the ground truth does not have are left out;
* results without names are joined by id, or by name where the id is a text.

Classes are joined in the same way by "category_id" and "category_name".
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from dino_d2.data.check import first
from dino_d2.data.check.fields import whole_number
from dino_d2.errors import UserError

from .ground_truth import GroundTruth

LEFT_OUT = -1


class Origin(NamedTuple):
    """An image or a class as results name it."""

    id: int | str
    name: str | None = None


class _Names:
    """File names of the ground truth, searched by their last part."""

    def __init__(self, file_names: Sequence[str]):
        self.parts = [_parts(name) for name in file_names]
        self.by_name: dict[str, list[int]] = defaultdict(list)
        self.by_stem: dict[str, list[int]] = defaultdict(list)
        for index, parts in enumerate(self.parts):
            self.by_name[parts[0]].append(index)
            self.by_stem[_stem(parts[0])].append(index)

    def find(self, name: str) -> list[int]:
        """The images whose paths have the longest end in common with a name; several if they are equally long."""
        wanted = _parts(name)
        found = self.by_name.get(wanted[0]) or self.by_stem.get(_stem(wanted[0]), [])
        if len(found) < 2:
            return found
        shared = [_shared_length(wanted[1:], self.parts[index][1:]) for index in found]
        return [index for index, length in zip(found, shared, strict=True) if length == max(shared)]


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path from the last to the first."""
    return tuple(reversed(PurePosixPath(name.replace("\\", "/")).parts)) or ("",)


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _shared_length(a: Sequence[str], b: Sequence[str]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length


def join_images(found: Sequence[Origin], truth: GroundTruth, results: Path, say: Callable[[str], object]) -> np.ndarray:
    """The index in the ground truth of each image of the results.

    Args:
        found: images of the results, each once.
        truth: of the dataset.
        results: for messages.
        say: receives a sentence if images are joined by name or left out.

    Returns:
        [n] int64; `LEFT_OUT` for images that the ground truth does not have.

    Raises:
        UserError: no image is in the ground truth, an id without a name is not, or a name has several images.
    """
    names = _Names(truth.file_names)
    by_id = _by_id(truth.image_ids)
    of_id = [_index(by_id, origin.id) for origin in found]
    candidates = [_candidates(names, origin, index) for origin, index in zip(found, of_id, strict=True)]
    agree = [index in options for index, options in zip(of_id, candidates, strict=True)]
    if all(agree):
        return np.array(of_id, np.int64)
    unnamed = [o.id for o, options in zip(found, candidates, strict=True) if o.name is None and not options]
    if not any(candidates) or unnamed:
        raise UserError(_no_match(found, unnamed, truth, results))
    joined = [_only(options, origin, truth, results) for options, origin in zip(candidates, found, strict=True)]
    twice = [i for i, index in enumerate(joined) if index >= 0 and index in joined[:i]]
    if twice:
        index = joined[twice[0]]
        ids = [origin.id for origin, other in zip(found, joined, strict=True) if other == index]
        raise UserError(
            f"{results}: images {first(ids)} are all {truth.file_names[index]!r} by their file names. Detect with "
            "--recursive on the folder above, so that names include folders"
        )
    example = agree.index(False)
    origin = found[example]
    own = of_id[example]
    shown = "unknown there" if own is None else f"{truth.file_names[own]!r} there"
    say(
        f"images are joined by file name, because the ids of {results} are not those of {truth.source}: image "
        f"{origin.id!r} ({origin.name or origin.id}) is {shown}"
    )
    if missing := [origin.name for origin, index in zip(found, joined, strict=True) if index == LEFT_OUT]:
        say(f"{len(missing)} images of {results} are not in {truth.source} and are left out: {first(missing)}")
    return np.array(joined, np.int64)


def _by_id(ids: Sequence[int | str]) -> dict[int | str, int]:
    return {own: index for index, own in enumerate(ids)}


def _index(by_id: dict[int | str, int], wanted: int | str) -> int | None:
    if wanted in by_id:
        return by_id[wanted]
    number = whole_number(wanted)
    return None if number is None else by_id.get(number)


def _candidates(names: _Names, origin: Origin, of_id: int | None) -> list[int]:
    if origin.name is not None:
        return names.find(origin.name)
    if of_id is not None:
        return [of_id]
    return names.find(origin.id) if isinstance(origin.id, str) else []


def _only(options: list[int], origin: Origin, truth: GroundTruth, results: Path) -> int:
    if len(options) > 1:
        raise UserError(
            f"{results}: {origin.name or origin.id!r} can be any of {first([truth.file_names[i] for i in options])}. "
            "Detect with --recursive on the folder above, so that names include folders"
        )
    return options[0] if options else LEFT_OUT


def _no_match(found: Sequence[Origin], unnamed: Sequence[int | str], truth: GroundTruth, results: Path) -> str:
    if unnamed:
        return (
            f"{results} has detections in {len(unnamed)} images that are not in {truth.source}: ids {first(unnamed)}; "
            f"the ground truth has ids {first(truth.image_ids, 3)} with names {first(truth.file_names, 3)}. Do the "
            'detections belong to another dataset? Entries with a "file_name" are joined by it'
        )
    names = [origin.name for origin in found]
    return (
        f"no image of {results} is in {truth.source}: the results have {first(names, 3)}, the ground truth has "
        f"{first(truth.file_names, 3)}. Do the detections belong to another dataset?"
    )


def join_classes(
    found: Sequence[Origin], truth: GroundTruth, results: Path, say: Callable[[str], object]
) -> np.ndarray:
    """The index in the ground truth of each class of the results; arguments as of :func:`join_images`.

    Returns:
        [n] int64; `LEFT_OUT` for classes that the ground truth does not have.

    Raises:
        UserError: no class is in the ground truth, or an id without a name is not.
    """
    by_id = _by_id(truth.category_ids)
    of_id = [_index(by_id, origin.id) for origin in found]
    pairs = list(zip(found, of_id, strict=True))
    if all(k is not None and origin.name in (None, truth.class_names[k]) for origin, k in pairs):
        return np.array(of_id, np.int64)
    unnamed = [origin.id for origin, k in pairs if origin.name is None and k is None]
    own = first([f"{i} ({name})" for i, name in zip(truth.category_ids, truth.class_names, strict=True)])
    if unnamed:
        raise UserError(
            f"{results} has detections of category ids {first(unnamed)}, which are not in {truth.source}; it has "
            f'{own}. If the model numbers its classes from 0, write the ids of the json, or add a "category_name"'
        )
    by_name = {name: k for k, name in enumerate(truth.class_names)}
    joined = [k if origin.name is None else by_name.get(origin.name, LEFT_OUT) for origin, k in pairs]
    missing = [origin.name for origin, k in zip(found, joined, strict=True) if k == LEFT_OUT]
    if len(missing) == len(found):
        raise UserError(
            f"no class of {results} is in {truth.source}: the results have {first(missing)}, the ground truth has {own}"
        )
    if any(k not in (i, LEFT_OUT) for i, k in zip(of_id, joined, strict=True)):
        say(f"classes are joined by name, because the category ids of {results} are not those of {truth.source}")
    if missing:
        say(f"detections of {len(missing)} classes that {truth.source} does not have are left out: {first(missing)}")
    return np.array(joined, np.int64)
