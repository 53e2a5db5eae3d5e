# SPDX-License-Identifier: Apache-2.0
"""Finds the json and the images of a dataset in common folder layouts."""

import json as json_module
import os
import shlex
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from dino_d2.data.check import DatasetError
from dino_d2.data.check.structure import read_json
from dino_d2.data.coco_format import coco_format
from dino_d2.data.split_names import split_of
from dino_d2.data.table.cache import LARGE_JSON
from dino_d2.data.table.json_parts import json_parts
from dino_d2.data.walk import files_below, is_file

#: Rules for the json of a split, most specific first, each with an example; the first rule that matches is used.
#: A rule is applied to the path relative to the dataset's folder.
_RULES: dict[str, Callable[[Path, str], bool]] = {
    "{split}/_annotations.coco.json": lambda path, split: (  # Roboflow
        path.name == "_annotations.coco.json" and len(path.parts) == 2 and split_of(path.parts[0]) == split
    ),
    "annotations/instances_{split}.json": lambda path, split: (  # COCO
        _is_in(path, "annotations") and path.name.startswith("instances_") and split_of(path.stem) == split
    ),
    "annotations/{split}.json": lambda path, split: _is_in(path, "annotations") and split_of(path.stem) == split,
    "{split}/any.json": lambda path, split: (
        len(path.parts) == 2 and split_of(path.parts[0]) == split and split_of(path.stem) in (None, split)
    ),
    "{split}.json": lambda path, split: len(path.parts) == 1 and split_of(path.stem) == split,
}


def custom_dataset(
    split: str,
    root: str | os.PathLike | None = None,
    json: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    within: str | os.PathLike | None = None,
    skip_bad_images: bool = False,
) -> str:
    """Registers one split of the user's own dataset and returns its name; for `names=` in a config.

    Args:
        split: "train" or "val".
        root: folder in which json and images are searched, as far as they are not given.
        json: annotation file in COCO format.
        images: folder that the json's file names are relative to; the json's own folder if neither it nor
            `root` is given.
        within: the folder that no file name of the json may leave; `root` if it is given and has the images, otherwise
            the folder of the images.
        skip_bad_images: see :func:`dino_d2.data.coco_format.coco_format`.

    Raises:
        DatasetError: nothing is given, nothing is found, or the dataset cannot be used.
    """
    folder = None if root is None else Path(os.path.abspath(os.path.expanduser(root)))
    if folder is not None and not folder.is_dir():
        raise DatasetError(f"data.root={folder}: there is no such folder. Check the path.")
    if json is not None:
        file = Path(json).expanduser()
    elif folder is not None:
        file = find_json(folder, split)
    else:
        raise DatasetError(
            f"No {split} dataset is given. Add data.root=FOLDER for a folder in the layout of Roboflow or COCO, or "
            f"data.{split}.json=FILE and data.{split}.images=FOLDER."
        )
    if images is None:
        images = find_images(file, folder, split)
    if within is None and folder and Path(os.path.abspath(os.path.expanduser(images))).is_relative_to(folder):
        within = folder
    return coco_format(file, images, within=within, skip_bad_images=skip_bad_images)


def find_json(root: Path, split: str) -> Path:
    """The annotation file of a split ("train" or "val") in a dataset's folder.

    Raises:
        DatasetError: there is none, or more than one that it could be.
    """
    found = _jsons(root, split)
    if len(found) == 1:
        return found[0]
    if found:
        raise DatasetError(
            f"data.root={root}: {_listed(path.relative_to(root) for path in found)} could each be the {split} "
            f"annotations. Say which: data.{split}.json=FILE data.{split}.images=FOLDER."
        )
    other = "val" if split == "train" else "train"
    if others := _jsons(root, other):
        raise DatasetError(
            f"data.root={root}: there are {other} annotations ({_listed(path.relative_to(root) for path in others)}), "
            f"but no {split} annotations; a split is named by a whole word, as in {split}.json. Add them, or say where "
            f"they are: data.{split}.json=FILE data.{split}.images=FOLDER."
        )
    if _looks_unconverted(root):
        raise DatasetError(
            f"data.root={root}: no json of COCO format, but this looks like Pascal VOC or YOLO. Convert it first: "
            f"python -m dino_d2.data.convert {shlex.quote(str(root))}"
        )
    patterns = _listed(pattern.format(split=split) for pattern in _RULES)
    raise DatasetError(
        f"data.root={root}: no {split} annotations. Looked for {patterns}, where {split} is a whole word of the name; "
        f"the folder has {_listed(path.name for path in sorted(root.iterdir())) or 'nothing'}. Rename the file, or say "
        f"where it is: data.{split}.json=FILE data.{split}.images=FOLDER."
    )


def _jsons(root: Path, split: str) -> list[Path]:
    """All matches of the first rule that has any."""
    paths = [path for pattern in ("*.json", "*/*.json") for path in root.glob(pattern)]
    for rule in _RULES.values():
        if found := sorted(path for path in paths if rule(path.relative_to(root), split)):
            return found
    return []


def _is_in(path: Path, folder: str) -> bool:
    return len(path.parts) == 2 and path.parts[0] == folder


def _looks_unconverted(root: Path) -> bool:
    has_yaml = next(root.glob("*.yaml"), None) or next(root.glob("*.yml"), None)
    return bool(has_yaml or next(root.rglob("labels/"), None) or next(files_below(root, (".xml",)), None))


def find_images(json: Path, root: Path | None, split: str) -> Path:
    """The folder that has the json's first image: next to the json, or below the dataset's folder.

    Raises:
        DatasetError: none of the usual folders has it.
    """
    if root is None or not json.is_file():
        return json.parent
    candidates = [json.parent, json.parent / "images"]
    for folder in (root, root / "images"):
        of_split = sorted(path for path in folder.glob("*/") if path.is_dir() and split_of(path.name) == split)
        candidates += [*of_split, *(path / "images" for path in of_split), folder]
    file_name = _first_file_name(json, json.stat().st_mtime_ns)
    if not file_name:
        return json.parent
    for folder in dict.fromkeys(candidates):
        if is_file(folder / file_name):
            return folder
    raise DatasetError(
        f"{json}: its first image, {ascii(file_name[:200])[1:-1]}, is in none of {_listed(dict.fromkeys(candidates))}. "
        f"Say where the images are: data.{split}.images=FOLDER."
    )


@lru_cache
def _first_file_name(json: Path, version: int) -> str:
    """The file name of the first image, or "" where the json has none; `coco_format` says what is wrong then."""
    try:
        first = _first_image(json)
    except (DatasetError, LookupError, TypeError):
        return ""
    file_name = first.get("file_name") if isinstance(first, dict) else None
    return file_name if isinstance(file_name, str) else ""


def _first_image(json: Path) -> Any:
    """The first entry of the images; of a large json, only the part up to it is read."""
    if json.stat().st_size >= LARGE_JSON:
        for part in json_parts(json, lambda key, text: json_module.loads(text), lambda block: None):
            if part.key == "images":
                return part.entries[0]
    content: Any = read_json(json)
    return content["images"][0]


def _listed(things: Iterable, at_most: int = 12) -> str:
    things = [str(thing) for thing in things]
    return ", ".join(things[:at_most]) + (", ..." if len(things) > at_most else "")
