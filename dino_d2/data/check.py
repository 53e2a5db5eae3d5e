"""Is this a COCO detection dataset? Finds what is wrong with a json and its image folder, and says where."""

import json as json_module
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

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


def read_coco(json: str | Path, images: str | Path) -> dict:
    """Reads a COCO detection json and checks everything but the boxes.

    Args:
        json: the annotation file, with "images", "annotations" and "categories".
        images: the folder that the `file_name`s are relative to.

    Raises:
        DatasetError: the json or the folder is missing; the file is not JSON or not COCO; an id is given
            twice; an annotation names an image or a category that is not there; an image file is missing.
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
    image_ids = _check_ids(json, coco["images"], "images")
    category_ids = _check_ids(json, coco["categories"], "categories")
    _check_ids(json, coco["annotations"], "annotations")
    _check_references(json, coco["annotations"], "image_id", image_ids, "images")
    _check_references(json, coco["annotations"], "category_id", category_ids, "categories")
    _check_files(json, images, coco["images"])
    return coco


def bad_annotations(coco: dict) -> dict[str, list]:
    """Finds the annotations without a usable box.

    Returns:
        reason -> annotation ids, in the order of the file. The boxes are COCO's [x, y, width, height] in
        pixels; a box that is partly outside the image is usable (it is clipped when the image is loaded).
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    bad = defaultdict(list)
    for annotation in coco["annotations"]:
        reason = _box_fault(annotation.get("bbox"), *sizes[annotation["image_id"]])
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


def _check_ids(json: Path, entries: list[dict], kind: str) -> set:
    counts = Counter(entry["id"] for entry in entries)
    twice = [i for i, count in counts.items() if count > 1]
    if twice:
        raise DatasetError(f"{json}: {len(twice)} ids of {kind!r} are given more than once: {first(twice)}.")
    return set(counts)


def _check_references(json: Path, annotations: list[dict], key: str, known: set, kind: str) -> None:
    unknown = [annotation for annotation in annotations if annotation[key] not in known]
    if unknown:
        raise DatasetError(
            f"{json}: {len(unknown)} annotations have a {key} that is not in {kind!r}; annotation ids "
            f"{first(a['id'] for a in unknown)}, with {key} {first(dict.fromkeys(a[key] for a in unknown))}. "
            f"Add the missing entry to {kind!r}, or take these annotations out."
        )


def _check_files(json: Path, images: Path, entries: list[dict]) -> None:
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
        raise DatasetError(
            f"{len(missing)} of the {len(entries)} images in {json} are not in {images}: image ids "
            f"{first(e['id'] for e in missing)}, the first is {images / missing[0]['file_name']}. "
            "Is this the right folder? Otherwise add the files, or take these images out of the json."
        )
