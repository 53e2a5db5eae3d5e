"""The json itself: its lists, ids and references, and that its images are there."""

import json as json_module
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_KEYS = ("images", "annotations", "categories")
_IMAGE_KEYS = ("id", "file_name", "width", "height")
_ANNOTATION_KEYS = ("id", "image_id", "category_id")
_CATEGORY_KEYS = ("id", "name")

NOT_FOUR_NUMBERS = "bbox is not four numbers [x, y, width, height]"
NOT_FINITE = "bbox has NaN or infinity"
NO_AREA = "bbox has a width or height of zero or less"
OUTSIDE = "bbox lies wholly outside its image"


class DatasetError(ValueError):
    """A dataset that cannot be used; the message names the file and the ids and says what to do."""


class Finding(NamedTuple):
    """One kind of fault, with everything that has it."""

    is_error: bool  # the dataset cannot be used so; a warning is something to know
    what: str  # in the plural, to stand behind the count
    ids: list  # of the images, annotations or categories
    advice: str
    example: str = ""  # more about the first of them

    def __str__(self) -> str:
        example = f", {self.example}" if self.example else ""
        return f"{len(self.ids)} {self.what}: {first(self.ids)}{example}. {self.advice}"


def read_coco(json: str | Path, images: str | Path) -> dict:
    """Reads a COCO detection json and checks everything but the boxes and the content of the images.

    Args:
        json: the annotation file, with "images", "annotations" and "categories".
        images: the folder that the `file_name`s are relative to.

    Raises:
        DatasetError: the json or the folder is missing; the file is not JSON or not COCO; an id is given
            twice; an annotation names an image or a category that is not there; an image file is missing.
    """
    coco = load(json, images)
    errors = list(faults(coco, Path(images)))
    if errors:
        raise DatasetError(f"{json}: " + "\n  ".join(map(str, errors)))
    return coco


def load(json: str | Path, images: str | Path) -> dict:
    """Reads a COCO detection json whose entries have all their keys.

    Raises:
        DatasetError: the json or the folder is missing, or the file is not JSON or not COCO.
    """
    json, images = Path(json), Path(images)
    if not json.is_file():
        raise DatasetError(f"Annotation file {json} does not exist. Check the path (`json=` in the config).")
    if not images.is_dir():
        raise DatasetError(f"Image folder {images} does not exist. Check the path (`images=` in the config).")
    try:
        coco = json_module.loads(json.read_text(encoding="utf-8"))
    except (json_module.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{json} is not a JSON file: {error}. Is it cut off, or another kind of file?") from error
    _check_keys(json, coco)
    return coco


def faults(coco: dict, images: Path) -> Iterator[Finding]:
    """What makes the dataset unusable: ids given twice, references to nothing, missing files."""
    for kind in _KEYS:
        yield from _ids_given_twice(coco[kind], kind)
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        yield from _references_to_nothing(coco["annotations"], key, {entry["id"] for entry in coco[kind]}, kind)
    yield from _missing_files(images, coco["images"])


def bad_annotations(coco: dict) -> dict[str, list]:
    """Finds the annotations without a usable box.

    Returns:
        reason -> annotation ids, in the order of the file. The boxes are COCO's [x, y, width, height] in
        pixels; a box that is partly outside the image is usable (it is clipped when the image is loaded).
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    bad = defaultdict(list)
    for annotation in coco["annotations"]:
        reason = _box_fault(annotation.get("bbox"), *sizes.get(annotation["image_id"], (math.inf, math.inf)))
        if reason:
            bad[reason].append(annotation["id"])
    return dict(bad)


def first(ids: Iterable, count: int = 5) -> str:
    """The first few ids, for a message: "7, 9, 12 and 40 more"."""
    ids = list(ids)
    shown = ", ".join(repr(i) for i in ids[:count])
    return shown if len(ids) <= count else f"{shown} and {len(ids) - count} more"


def _box_fault(bbox: object, width: float, height: float) -> str | None:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        return NOT_FOUR_NUMBERS
    x, y, w, h = bbox
    if not all(math.isfinite(value) for value in bbox):
        return NOT_FINITE
    if w <= 0 or h <= 0:
        return NO_AREA
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return OUTSIDE
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_keys(json: Path, coco: object) -> None:
    """The three lists are there, none of the two that must have entries is empty, all entries have their keys."""
    if not isinstance(coco, dict):
        raise DatasetError(f"{json} is not a COCO detection file: it holds a {type(coco).__name__}, not an object.")
    missing = [key for key in _KEYS if not isinstance(coco.get(key), list)]
    if missing:
        found = ", ".join(map(repr, coco)) or "nothing"
        raise DatasetError(
            f"{json} is not a COCO detection file: it has no list {' and '.join(map(repr, missing))} "
            f"(it has {found}). Give the json with the boxes, for example instances_train2017.json."
        )
    for kind in ("images", "categories"):
        if not coco[kind]:
            raise DatasetError(f"{json} has no {kind}: the list {kind!r} is empty.")
    for kind, keys in (("images", _IMAGE_KEYS), ("categories", _CATEGORY_KEYS), ("annotations", _ANNOTATION_KEYS)):
        for index, entry in enumerate(coco[kind]):
            lacking = [key for key in keys if not isinstance(entry, dict) or entry.get(key) is None]
            if lacking:
                name = f"id {entry['id']!r}" if "id" not in lacking else f"number {index} (counted from 0)"
                raise DatasetError(f"{json}: the entry of {kind!r} with {name} has no {', '.join(map(repr, lacking))}.")
    for image in coco["images"]:
        if not all(_is_number(image[key]) and image[key] > 0 for key in ("width", "height")):
            raise DatasetError(
                f"{json}: image id {image['id']!r} ({image['file_name']}) has width {image['width']!r} and height "
                f"{image['height']!r}; both must be positive numbers, the size of the file in pixels."
            )


def _ids_given_twice(entries: list[dict], kind: str) -> Iterator[Finding]:
    twice = [i for i, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    if twice:
        yield Finding(True, f"ids of {kind!r} given more than once", twice, "Give each its own id.")


def _references_to_nothing(annotations: list[dict], key: str, known: set, kind: str) -> Iterator[Finding]:
    unknown = [annotation for annotation in annotations if annotation[key] not in known]
    if unknown:
        yield Finding(
            True,
            f"annotations whose {key} is not in {kind!r}",
            [annotation["id"] for annotation in unknown],
            f"Add the missing entry to {kind!r}, or take these annotations out.",
            f"with {key} {first(dict.fromkeys(annotation[key] for annotation in unknown))}",
        )


def _missing_files(images: Path, entries: list[dict]) -> Iterator[Finding]:
    """One listing per folder instead of one look-up per file: network drives are slow at the latter."""
    folders: dict[Path, set[str]] = {}
    missing = []
    for entry in entries:
        path = images / entry["file_name"]
        if path.parent not in folders:
            folders[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        if path.name not in folders[path.parent]:
            missing.append(entry)
    if missing:
        share = "all" if len(missing) == len(entries) else "some"
        yield Finding(
            True,
            f"images (of {len(entries)}) without a file",
            [entry["id"] for entry in missing],
            f"Is {images} the right folder? Otherwise add the files, or take these images out of the json."
            if share == "all"
            else "Add the files, or take these images out of the json.",
            f"the first is {images / missing[0]['file_name']}",
        )
