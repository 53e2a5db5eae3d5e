# SPDX-License-Identifier: Apache-2.0
"""Checks every field of a COCO json that this project reads, and converts it to one type.

Training, evaluation, the dataset check and the tools all see the result of :func:`normalise`, so that none of them
has to ask whether an id is a number or a text, or whether `iscrowd` is there.
"""

import itertools
import math
import operator
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from dino_d2.errors import UserError

KINDS = ("images", "annotations", "categories")

#: What each entry of a list must have.
REQUIRED = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("id", "image_id", "category_id"),
}

NOT_FOUR_NUMBERS = "bbox is not four numbers [x, y, width, height]"
NOT_FINITE = "bbox has NaN or infinity, or a number beyond any image"
NO_AREA = "bbox has a width or height of zero or less"
OUTSIDE = "bbox is completely outside its image"
NO_SUCH_AREA = "area does not fit their bbox"
NOT_A_FLAG = "{} is neither 0 nor 1"

#: COCO's evaluation counts objects of at most this area, in pixels squared, and ignores larger ones.
_LARGEST_AREA = 1e10
#: The smallest share of its box that an object covers. A smaller area is a share of the image, or not of this box;
#: COCO's evaluation would count the object as small.
_SMALLEST_SHARE = 1e-4
#: Coordinates beyond this, in pixels, are errors of the program that wrote them.
_LARGEST_COORDINATE = 1e9
#: A side of this many pixels or less is rounding noise, which the mapper drops too.
_SMALLEST_SIDE = 1e-5
#: Ids are stored as 64-bit integers, those of annotations in pycocotools as 64-bit floating-point numbers.
_LARGEST_ID = 2**63 - 1
LARGEST_ANNOTATION_ID = 2**53
#: Largest width and height of an image that a json may state.
LARGEST_SIDE = 10**9
#: Levels of lists and objects within an entry; COCO's own fields have three.
_DEEPEST = 16
_MISTAKES_SHOWN = 5


class DatasetError(UserError):
    """A dataset cannot be used; the message has the file, the ids and the remedy."""


class Finding(NamedTuple):
    """One kind of fault, with everything that has it."""

    is_error: bool  # the dataset cannot be used like this; a warning is something to know
    what: str  # in the plural, to stand behind the count
    ids: Collection  # of the images, annotations or categories
    advice: str
    example: str = ""  # more about the first of them

    def __str__(self) -> str:
        example = f", {self.example}" if self.example else ""
        return f"{len(self.ids)} {self.what}: {first(self.ids)}{example}. {self.advice}"


def first(ids: Collection, count: int = 5) -> str:
    """The first few ids, for a message: "7, 9, 12 and 40 more"."""
    listed = ", ".join(map(shown, itertools.islice(ids, count)))
    return listed if len(ids) <= count else f"{listed} and {len(ids) - count} more"


def shown(value: object) -> str:
    """A value of a json for a message, short whatever it is."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'JSON object'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST_ID:
        return "a number of more than 64 bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class Normalised(NamedTuple):
    """A COCO dictionary with fields of one type, and the changes that this needed."""

    coco: dict[str, Any]
    skipped: dict[str, list]  # reason -> ids of the annotations that are left out
    corrected: dict[str, list]  # what was replaced -> ids of the annotations
    is_as_given: bool  # nothing had to be changed

    @property
    def findings(self) -> list[Finding]:
        """The same as warnings, and as an error where no annotation is left."""
        all_ids = [i for ids in self.skipped.values() for i in ids]
        found = []
        if all_ids and not self.coco["annotations"]:
            advice = "Correct them; nothing could be learnt from this json."
            found.append(Finding(True, "annotations, which is all, cannot be used", all_ids, advice))
        for reason, ids in self.skipped.items():
            advice = "They are skipped. Correct or delete them."
            found.append(Finding(False, f"annotations whose {reason}", ids, advice))
        for what, ids in self.corrected.items():
            found.append(Finding(False, f"annotations whose {what}", ids, "It is replaced. Correct it."))
        return found


class Mistakes:
    """Collects unusable entries and reports several of them in one message."""

    def __init__(self, json: str | Path):
        self.json, self.count = json, 0
        self.messages: list[str] = []

    def add(self, message: str) -> None:
        self.count += 1
        if self.count <= _MISTAKES_SHOWN:
            self.messages.append(message)

    def extend(self, others: "Mistakes") -> None:
        self.count += others.count
        self.messages = (self.messages + others.messages)[:_MISTAKES_SHOWN]

    def stop_if_any(self) -> None:
        if self.count:
            more = f"\n  and {self.count - len(self.messages)} more" if self.count > len(self.messages) else ""
            raise DatasetError(f"{self.json}: " + "\n  ".join(self.messages) + more)


def normalise(coco: dict[str, Any], json: str | Path) -> Normalised:
    """Bring the fields of a COCO dictionary to one type, without the annotations that cannot be used.

    What comes out, and what is accepted for it:

    * ids, `image_id`, `category_id`: int. A whole number written as a float or as text becomes one. Where an id of
      the images (or the categories) is another text, all of them must be text, and they stay so. Ids of annotations
      that are text, not positive or beyond 2^53 get a new number: pycocotools takes a match with annotation 0 for none.
    * `file_name`, `name`: text. Numbers become it for `name`.
    * `width`, `height`: positive int.
    * `bbox`: four numbers; other annotations are left out.
    * `iscrowd`: 0 or 1, 0 where it is missing or null. A true `ignore`, which tools that convert from Pascal VOC write
      for difficult objects, makes it 1: neither learnt nor counted as missed.
    * `area`: positive float; the area of the box where it is missing, or no number that an area can be.
    * `segmentation`, `keypoints`: as they are if they are in COCO's format, otherwise absent. Boxes do not need them.
    * all others: unchanged, unless they are nested too deeply to be copied.

    Args:
        coco: with the lists "images", "annotations" and "categories"; it stays as it was.
        json: where it came from, for messages.

    Returns:
        the dictionary and what was left out or corrected. Entries that needed no change are the given ones.

    Raises:
        DatasetError: an entry without an id, file name, size or class that can be used.
    """
    mistakes = Mistakes(json)
    for kind in REQUIRED:
        check_keys(coco[kind], kind, mistakes)
    mistakes.stop_if_any()

    image_id = id_reader(coco["images"], "images", mistakes)
    category_id = id_reader(coco["categories"], "categories", mistakes)
    mistakes.stop_if_any()
    images = [image_fields(entry, image_id, mistakes) for entry in coco["images"]]
    categories = [category_fields(entry, category_id, mistakes) for entry in coco["categories"]]
    check_annotation_ids(coco["annotations"], image_id, category_id, mistakes)
    mistakes.stop_if_any()

    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    usable, skipped, corrected = usable_annotations(coco["annotations"], sizes, image_id, category_id)
    annotations = _with_usable_ids(usable)
    others = {key: value for key, value in coco.items() if key not in KINDS and _is_shallow(value)}
    fixed = {**others, "images": images, "annotations": annotations, "categories": categories}
    is_as_given = fixed.keys() == coco.keys() and all(
        len(fixed[kind]) == len(coco[kind]) and all(map(operator.is_, fixed[kind], coco[kind])) for kind in KINDS
    )
    return Normalised(fixed, skipped, corrected, is_as_given)


def whole_number(value: object) -> int | None:
    """The 64-bit integer of a JSON value, such as 5, 5.0 or "5"; None for any other value."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST_ID:
        return value
    return None


def annotation_id(value: object) -> int | str | None:
    """An annotation's id in the form in which ids are compared; None if it is not a valid id."""
    number = whole_number(value)
    if number is not None:
        return number
    if isinstance(value, int) and not isinstance(value, bool):
        return str(hex(value))  # too large to be stored, but as good as a text for telling annotations apart
    return value if isinstance(value, str) else None


def check_keys(entries: list, kind: str, mistakes: Mistakes, start: int = 0) -> None:
    """Note the entries that lack something; `start` is the number of the first one in its list."""
    for index, entry in enumerate(entries, start):
        if not isinstance(entry, dict):
            mistakes.add(
                f"the entry of {kind!r} with number {index} (counted from 0) is {shown(entry)}, not a JSON object."
            )
            continue
        lacking = [key for key in REQUIRED[kind] if entry.get(key) is None]
        if lacking:
            name = f"number {index} (counted from 0)" if "id" in lacking else f"id {shown(entry['id'])}"
            mistakes.add(f"the entry of {kind!r} with {name} has no {', '.join(map(repr, lacking))}.")


def check_annotation_ids(
    annotations: list[dict], image_id: Callable, category_id: Callable, mistakes: Mistakes
) -> None:
    """Note the annotations with an id, an image id or a category id that cannot be one."""
    for annotation in annotations:
        for key, read in (("image_id", image_id), ("category_id", category_id)):
            if read(annotation[key]) is None:
                mistakes.add(
                    f"the entry of 'annotations' with id {shown(annotation['id'])} has {key} "
                    f"{shown(annotation[key])}, which cannot be an id."
                )
        if annotation_id(annotation["id"]) is None:
            mistakes.add(f"an entry of 'annotations' has the id {shown(annotation['id'])}, which cannot be one.")


def id_reader(entries: list[dict], kind: str, mistakes: Mistakes) -> Callable[[object], int | str | None]:
    """The rule for the ids of a list: all whole numbers, or all text."""
    no_number = [entry["id"] for entry in entries if whole_number(entry["id"]) is None]
    if not no_number:
        return whole_number
    if all(isinstance(entry["id"], str) for entry in entries):
        return lambda value: value if isinstance(value, str) else None
    for value in no_number:
        mistakes.add(f"an entry of {kind!r} has the id {shown(value)}; ids must be whole numbers of 64 bits.")
    return whole_number


def image_fields(image: dict, image_id: Callable, mistakes: Mistakes) -> dict:
    where = f"image id {shown(image['id'])}"
    file_name = image["file_name"]
    if not is_text(file_name) or "\0" in file_name:
        mistakes.add(f"{where} has the file_name {shown(file_name)}; it must be text, a path in the image folder.")
    width, height = (whole_number(image[side]) for side in ("width", "height"))
    if not all(side is not None and 0 < side <= LARGEST_SIDE for side in (width, height)):
        mistakes.add(
            f"{where} ({file_name if isinstance(file_name, str) else shown(file_name)}) has width "
            f"{shown(image['width'])} and height {shown(image['height'])}; both must be positive whole numbers, "
            "the size of the file in pixels."
        )
    return _with(image, {"id": image_id(image["id"]), "width": width, "height": height})


def category_fields(category: dict, category_id: Callable, mistakes: Mistakes) -> dict:
    name = category["name"]
    if isinstance(name, int | float) and not isinstance(name, bool) and math.isfinite(_as_float(name)):
        name = str(name)
    if not isinstance(name, str) or not is_text(name or "empty") or has_control_characters(name):
        mistakes.add(
            f"category id {shown(category['id'])} has the name {shown(category['name'])}; it must be text without "
            "line breaks and other control characters."
        )
    fixed = _with(category, {"id": category_id(category["id"]), "name": name})
    if not isinstance(fixed.get("supercategory", ""), str):
        fixed = {key: value for key, value in fixed.items() if key != "supercategory"}
    return fixed


def is_text(value: object) -> bool:
    """Text that can be written as UTF-8: JSON's escapes may hold halves of characters."""
    if not isinstance(value, str) or not value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_control_characters(text: str) -> bool:
    """Whether a text has line breaks, or other characters that files of names and terminals take for commands."""
    return any(unicodedata.category(character) == "Cc" for character in text)


def usable_annotations(
    annotations: list[dict], sizes: dict, image_id: Callable, category_id: Callable
) -> tuple[list[dict], dict[str, list], dict[str, list]]:
    """The annotations with their fields brought to one type, and the ids of those left out and corrected, by reason.

    Args:
        sizes: image id -> (width, height).
        image_id, category_id: how such ids are read.
    """
    skipped: dict[str, list] = defaultdict(list)
    corrected: dict[str, list] = defaultdict(list)
    usable = []
    for annotation in annotations:
        size = sizes.get(image_id(annotation["image_id"]), (math.inf, math.inf))
        iscrowd, ignore = (_flag(annotation.get(key)) for key in ("iscrowd", "ignore"))
        reason = box_fault(annotation.get("bbox"), *size)
        if iscrowd is None or ignore is None:
            reason = reason or NOT_A_FLAG.format("iscrowd" if iscrowd is None else "ignore")
        if reason:
            skipped[reason].append(annotation["id"])
            continue
        area = _area(annotation.get("area"), annotation["bbox"])
        if area is None:
            area = _area_within(annotation["bbox"], *size)
            if annotation.get("area") is not None:
                corrected[NO_SUCH_AREA].append(annotation["id"])
        fields = {
            "id": annotation_id(annotation["id"]),
            "image_id": image_id(annotation["image_id"]),
            "category_id": category_id(annotation["category_id"]),
            "area": area,
            "iscrowd": int(bool(iscrowd or ignore)),
        }
        usable.append(_without_odd_fields(_with(annotation, fields)))
    return usable, dict(skipped), dict(corrected)


def _with_usable_ids(annotations: list[dict]) -> list[dict]:
    """COCOeval marks an unmatched detection with 0, so that a match with annotation 0 would count as an error."""
    good = [a["id"] for a in annotations if isinstance(a["id"], int) and 0 < a["id"] <= LARGEST_ANNOTATION_ID]
    if len(good) == len(annotations):
        return annotations
    largest = max(good, default=0)
    if largest + len(annotations) > LARGEST_ANNOTATION_ID:
        good, largest = [], 0
    kept, new = set(good), iter(range(largest + 1, largest + 1 + len(annotations)))
    return [a if a["id"] in kept else {**a, "id": next(new)} for a in annotations]


def box_fault(bbox: object, width: float, height: float) -> str | None:
    """The reason why a box [x, y, width, height] in an image of this size cannot be used; None if it can.

    A box that is partly outside the image can be: it is clipped when the image is loaded.
    """
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
        return NOT_FOUR_NUMBERS
    if not all(abs(value) <= _LARGEST_COORDINATE for value in bbox):  # false for NaN as well
        return NOT_FINITE
    x, y, w, h = bbox
    if not (w > _SMALLEST_SIDE and h > _SMALLEST_SIDE):
        return NO_AREA
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return OUTSIDE
    return None


def is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: object) -> float:
    """NaN for values that are not numbers, infinity for integers beyond the range of floating-point numbers."""
    try:
        return float(value) if is_number(value) or isinstance(value, str) else math.nan
    except ValueError:
        return math.nan
    except OverflowError:
        return math.inf


def box_faults(bbox: np.ndarray, widths: np.ndarray, heights: np.ndarray) -> dict[str, np.ndarray]:
    """:func:`box_fault` of many boxes: for each reason which boxes have it, bool [M].

    Args:
        bbox: [x, y, width, height], float64 [M, 4].
        widths, heights: of the image of each box, float64 [M]; infinite where it is not known.
    """
    x, y, w, h = bbox.T
    not_finite = ~(np.abs(bbox) <= _LARGEST_COORDINATE).all(axis=1)
    no_area = ~((w > _SMALLEST_SIDE) & (h > _SMALLEST_SIDE)) & ~not_finite
    outside = ((x >= widths) | (y >= heights) | (x + w <= 0) | (y + h <= 0)) & ~not_finite & ~no_area
    return {NOT_FINITE: not_finite, NO_AREA: no_area, OUTSIDE: outside}


def usable_areas(
    areas: np.ndarray, bbox: np.ndarray, widths: np.ndarray, heights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The areas of many usable boxes, float64 [M], and which of them replace another one, bool [M].

    Args:
        areas: as the json gives them, float64 [M]; NaN where it gives none.
        bbox, widths, heights: as for :func:`box_faults`.
    """
    usable = (areas > 0) & (areas <= _LARGEST_AREA) & ~(areas > 2 * bbox[:, 2] * bbox[:, 3] + 1)
    result = np.where(usable, areas, np.minimum(bbox[:, 2] * bbox[:, 3], _LARGEST_AREA))
    for row in np.flatnonzero(~usable & (bbox[:, 2] * bbox[:, 3] > _LARGEST_AREA)):
        result[row] = _area_within(bbox[row].tolist(), float(widths[row]), float(heights[row]))
    return result, ~usable & ~np.isnan(areas)


def _flag(value: object) -> bool | None:
    """0, 1, false, true, their texts "0" and "1", and nothing, which is 0; None for any other value."""
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    number = whole_number(value)
    return bool(number) if number in (0, 1) else None


def _area(area: object, bbox: list) -> float | None:
    """The area in the json; None if it does not fit the box. The area of a mask is smaller than that of its box."""
    number = _as_float(area)
    of_box = bbox[2] * bbox[3]
    if not (0 < number <= _LARGEST_AREA) or not _SMALLEST_SHARE * of_box <= number <= 2 * of_box + 1:
        return None
    return area if is_number(area) else number


def _area_within(bbox: list, width: float, height: float) -> float:
    """Of a box; of its part in the image where the box is larger than COCO's evaluation counts."""
    x, y, w, h = bbox
    if w * h > _LARGEST_AREA:
        w, h = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
    return min(w * h, _LARGEST_AREA)


def _with(entry: dict, fields: dict) -> dict:
    """The entry with these fields and without those that are nested too deeply; itself where nothing changes."""
    deep = [key for key, value in entry.items() if isinstance(value, list | dict) and not _is_shallow(value)]
    if not deep and all(type(entry.get(key)) is type(value) and entry[key] == value for key, value in fields.items()):
        return entry
    return {key: value for key, value in entry.items() if key not in deep} | fields


def _without_odd_fields(annotation: dict) -> dict:
    odd = [
        key
        for key, is_usual in (("segmentation", _is_segmentation), ("keypoints", _is_keypoints), ("ignore", _is_zero))
        if key in annotation and not is_usual(annotation[key])
    ]
    return {key: value for key, value in annotation.items() if key not in odd} if odd else annotation


def _is_zero(value: object) -> bool:
    return type(value) is int and value == 0


def _is_segmentation(segmentation: object) -> bool:
    """Polygons of at least three points, or a mask in run-length encoding; an empty list says that there is none."""
    if segmentation is None or segmentation == []:
        return True
    if isinstance(segmentation, dict):
        return _is_run_length_encoding(segmentation)
    if not isinstance(segmentation, list) or not all(_are_coordinates(part) for part in segmentation):
        return False
    return any(len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in segmentation)


def _is_run_length_encoding(mask: dict) -> bool:
    size, counts = mask.get("size"), mask.get("counts")
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        return False
    if isinstance(counts, str):
        return counts.isascii()
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts):
        return False
    return sum(counts) == size[0] * size[1] <= _LARGEST_ID


def _is_keypoints(keypoints: object) -> bool:
    return keypoints is None or (_are_coordinates(keypoints) and len(keypoints) % 3 == 0)


def _are_coordinates(values: object) -> TypeGuard[list[int | float]]:
    if not isinstance(values, list) or not {type(value) for value in values} <= {int, float}:
        return False
    return all(abs(value) <= _LARGEST_COORDINATE for value in values)


def _is_shallow(value: object, levels: int = _DEEPEST) -> bool:
    """Whether a value is nested at most so many levels; deeper ones end the copying of dictionaries."""
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, list | dict)
        ]
        if not layer:
            return True
    return False
