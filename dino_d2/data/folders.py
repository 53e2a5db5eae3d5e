"""Where a dataset's json and images lie in a folder, in the layouts that people have."""

import json as json_module
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from .check import DatasetError
from .coco_format import coco_format

#: Where a split's json may lie, surest first; the first pattern that finds one decides. The split is "train" or "val",
#: with which "train2017", "valid" and "validation" begin.
JSON_PATTERNS = (
    "{split}*/_annotations.coco.json",  # Roboflow
    "annotations/instances_{split}*.json",  # COCO
    "annotations/*{split}*.json",
    "{split}*/*.json",
    "*{split}*.json",
)


def custom_dataset(
    split: str,
    root: str | os.PathLike | None = None,
    json: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
) -> str:
    """Registers one split of the user's own dataset and returns its name; for `names=` in a config.

    Args:
        split: "train" or "val".
        root: folder in which json and images are found by themselves, as far as they are not given.
        json: annotation file in COCO format.
        images: folder that the json's file names are relative to; the json's own folder if neither it nor
            `root` is given.

    Raises:
        DatasetError: nothing is given, nothing is found, or the dataset cannot be used.
    """
    if json is None and root is None:
        raise DatasetError(
            f"No {split} dataset is given. Add data.root=FOLDER for a folder in the layout of Roboflow or COCO, or "
            f"data.{split}.json=FILE and data.{split}.images=FOLDER."
        )
    if root is not None:
        root = Path(os.path.abspath(os.path.expanduser(root)))
        if not root.is_dir():
            raise DatasetError(f"data.root={root}: there is no such folder. Check the path.")
    json = find_json(root, split) if json is None else Path(json).expanduser()
    if images is None:
        images = find_images(json, root, split)
    return coco_format(json, images)


def find_json(root: Path, split: str) -> Path:
    """The annotation file of a split ("train" or "val") in a dataset's folder.

    Raises:
        DatasetError: there is none, or more than one that it could be.
    """
    for pattern in JSON_PATTERNS:
        found = sorted(root.glob(pattern.format(split=split)))
        if len(found) == 1:
            return found[0]
        if found:
            raise DatasetError(
                f"data.root={root}: {_listed(path.relative_to(root) for path in found)} could each be the {split} "
                f"annotations. Say which: data.{split}.json=FILE data.{split}.images=FOLDER."
            )
    if next(root.rglob("*.xml"), None) or next(root.glob("*.yaml"), None) or next(root.rglob("labels/"), None):
        raise DatasetError(
            f"data.root={root}: no json of COCO format, but this looks like Pascal VOC or YOLO. Convert it first: "
            f"python -m dino_d2.data.convert {root}"
        )
    patterns = _listed(pattern.format(split=split) for pattern in JSON_PATTERNS)
    raise DatasetError(
        f"data.root={root}: no {split} annotations. Looked for {patterns}; the folder has "
        f"{_listed(path.name for path in sorted(root.iterdir())) or 'nothing'}. Rename the file, or say where it is: "
        f"data.{split}.json=FILE data.{split}.images=FOLDER."
    )


def find_images(json: Path, root: Path | None, split: str) -> Path:
    """The folder that has the json's first image: beside the json, or below the dataset's folder.

    Raises:
        DatasetError: none of the usual folders has it.
    """
    if root is None or not json.is_file():
        return json.parent
    candidates = [json.parent, json.parent / "images"]
    for folder in (root, root / "images"):
        candidates += sorted(path for path in folder.glob(f"{split}*") if path.is_dir())
        candidates += sorted(folder.glob(f"{split}*/images"))
        candidates += [folder]
    file_name = _first_file_name(json, json.stat().st_mtime_ns)
    if not file_name:
        return json.parent
    for folder in dict.fromkeys(candidates):
        if (folder / file_name).is_file():
            return folder
    raise DatasetError(
        f"{json}: its first image, {file_name}, is in none of {_listed(dict.fromkeys(candidates))}. "
        f"Say where the images are: data.{split}.images=FOLDER."
    )


@lru_cache
def _first_file_name(json: Path, version: int) -> str:
    """The file name of the first image, or "" where the json has none; what is wrong then, `coco_format` says."""
    try:
        return str(json_module.loads(json.read_text(encoding="utf-8"))["images"][0]["file_name"])
    except (ValueError, LookupError, TypeError):
        return ""


def _listed(things: Iterable, at_most: int = 12) -> str:
    things = [str(thing) for thing in things]
    return ", ".join(things[:at_most]) + (", ..." if len(things) > at_most else "")
