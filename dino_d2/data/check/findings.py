# SPDX-License-Identifier: Apache-2.0
"""A table of all faults and warnings about a dataset, for use before training."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from tabulate import tabulate
from tqdm import tqdm

from dino_d2.data.pictures import Header, PictureError, read_header

from .columns import Columns, columns, taken
from .fields import DatasetError, Finding, Normalised, first, normalise
from .structure import faults, leaves, load, stop_at_errors

_IMAGE_ID_KEYS = {"images": "id", "annotations": "image_id"}

#: Classes with fewer objects get a warning.
FEW_OBJECTS = 10

#: Boxes that exceed their image by at most this fraction of its side are considered imprecise labels.
FAR = 0.1

#: Annotations that are checked in one step.
_BLOCK = 2**20

#: Number of detections per image and class that COCO's AP counts.
COUNTED_BY_AP = 100


def check(
    raw: dict,
    images: Path,
    open_at_most: int | None = None,
    decode: bool = True,
    within: Path | None = None,
    json: Path | str = "the json",
) -> list[Finding]:
    """Finds every kind of fault, errors first.

    Args:
        raw: as `structure.load` gives it.
        images: folder of the images.
        open_at_most: number of image files to open; None opens all.
        decode: decode the opened files to their end, which finds those that are cut off; without it only their first
            bytes are read, which is some 50 times as fast and finds files that are no images or have another size.
        within: the folder that no file name may leave; `images` if not given.
        json: where `raw` came from, for messages.

    Raises:
        DatasetError: entries that cannot be used at all, see `fields.normalise`.
    """
    normalised = normalise(raw, json)
    coco = normalised.coco
    findings = [
        *faults(raw, coco, images, within),
        *normalised.findings,
        *content_findings(columns(coco)),
    ]
    if not any(finding.is_error for finding in findings if "leads out" in finding.what):
        findings += image_findings(coco["images"][:open_at_most], images, decode)
    return sorted(findings, key=lambda finding: not finding.is_error)


def table(findings: list[Finding]) -> str:
    """The findings as a table, errors before warnings."""
    rows = [
        (
            "error" if finding.is_error else "warning",
            len(finding.ids),
            finding.what,
            ", ".join(filter(None, (first(finding.ids, 3), finding.example))),
            finding.advice,
        )
        for finding in findings
    ]
    return tabulate(
        rows, headers=("", "count", "what", "first ids", "what to do"), maxcolwidths=[None, None, 34, 40, 40]
    )


def content_findings(dataset: Columns) -> Iterator[Finding]:
    """Doubtful boxes, classes and images, by the json alone."""
    yield from _boxes(dataset)
    yield from _classes(dataset)
    yield from _images(dataset)
    yield from _crowded(dataset)


class _BoxMasks(NamedTuple):
    """What holds for each annotation, bool [M]."""

    has_image: np.ndarray
    beyond: np.ndarray  # the box reaches out of its image
    far: np.ndarray  # by more than `FAR`
    corners: np.ndarray  # the box would lie within its image if its numbers were those of two corners
    shares: np.ndarray  # the box lies in 0..1


def _boxes(dataset: Columns) -> Iterator[Finding]:
    blocks = [_box_masks(dataset, block) for block in _blocks(dataset)]
    masks = _BoxMasks(*(np.concatenate(parts) for parts in zip(*blocks, strict=True)))
    if masks.beyond.any():
        yield from _outside(dataset, masks)
    shares = dataset.ids_of(masks.shares)
    if shares and len(shares) == len(dataset.images):
        advice = "COCO counts pixels: multiply by the width and height of the image."
        yield Finding(True, "annotations whose bbox lies in 0..1", shares, advice)
    elif shares:
        advice = "They are boxes of a pixel at most. Where shares of the image are meant, multiply them by its size."
        yield Finding(False, "annotations whose bbox lies in 0..1, while others do not", shares, advice)
    again = _copies(dataset)
    if again.any():
        yield Finding(
            False,
            "annotations with the class and bbox of another one of their image",
            dataset.ids_of(again),
            "A detector finds one of them. Delete the copies.",
        )


def _outside(dataset: Columns, masks: _BoxMasks) -> Iterator[Finding]:
    """Boxes that exceed their image, or all boxes if their numbers appear to be two corners."""
    count, far = np.count_nonzero(masks.has_image), np.count_nonzero(masks.far)
    if far and np.array_equal(masks.corners, masks.has_image):
        yield Finding(
            bool(count >= FEW_OBJECTS and far >= count / 10),
            "annotations whose bbox seems to be [x0, y0, x1, y1], two corners",
            dataset.ids_of(masks.has_image),
            "As [x, y, width, height], which is what COCO means, boxes leave their images; as corners all fit. "
            "Convert them.",
        )
        return
    beyond = dataset.ids_of(masks.beyond)
    advice = "Such boxes are clipped."
    if len(beyond) >= max(FEW_OBJECTS, count / 3):
        advice += " So many may mean another format: COCO's boxes are [x, y, width, height], x and y of a corner."
    yield Finding(False, "annotations whose bbox is partly outside its image", beyond, advice)


def _blocks(dataset: Columns) -> list[slice]:
    """The annotations in parts whose intermediate results are small; one part if there are none."""
    return [slice(k, k + _BLOCK) for k in range(0, max(1, len(dataset.images)), _BLOCK)]


def _box_masks(dataset: Columns, block: slice) -> _BoxMasks:
    images, bbox = dataset.images[block], dataset.bbox[block]
    has_image = images >= 0
    widths, heights = (np.where(has_image, sides[images], 0) for sides in (dataset.widths, dataset.heights))
    return _BoxMasks(
        has_image,
        has_image & reaches_out(bbox, widths, heights),
        has_image & reaches_out(bbox, widths, heights, FAR),
        has_image & _are_corners(bbox, widths, heights),
        is_share(bbox),
    )


def reaches_out(bbox: ArrayLike, width: ArrayLike, height: ArrayLike, margin: float = 0) -> np.ndarray:
    """Whether boxes leave their images by more than a pixel (less is rounding) plus ``margin`` times the image's side.

    Args:
        bbox: [..., 4] as x, y, width, height.
        width: of the images, [...].
        height: of the images, [...].

    Returns:
        bool [...].
    """
    x, y, w, h = np.asarray(bbox, np.float64).T
    width, height = np.asarray(width, np.float64), np.asarray(height, np.float64)
    across, down = 1 + margin * width, 1 + margin * height
    return (x < -across) | (y < -down) | (x + w > width + across) | (y + h > height + down)


def _are_corners(bbox: np.ndarray, width: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Whether numbers, [M, 4], would be boxes within their images if they were those of two corners; bool [M]."""
    x0, y0, x1, y1 = bbox.T
    return (x0 >= -1) & (x0 < x1) & (x1 <= width + 1) & (y0 >= -1) & (y0 < y1) & (y1 <= height + 1)


def is_share(bbox: ArrayLike) -> np.ndarray:
    """Whether boxes, [..., 4], lie in the first pixel, as boxes do whose numbers are shares of their image; [...]."""
    x, y, w, h = np.asarray(bbox, np.float64).T
    return (x >= 0) & (y >= 0) & (x + w <= 1) & (y + h <= 1)


def _copies(dataset: Columns) -> np.ndarray:
    """Which annotations have the image, class, crowd flag and box of another one, bool [M]."""
    hashes = np.empty(len(dataset.images), np.uint64)
    for block in _blocks(dataset):
        hashes[block] = _hashes(dataset, block)
    ordered = np.sort(hashes)
    alike = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    # Few are left, which are compared exactly.
    candidates = np.flatnonzero(_are_among(hashes, alike))
    columns_of_candidates = (dataset.images, dataset.classes, dataset.is_crowd, dataset.bbox)
    places = [
        (image, category, crowd, *bbox)
        for image, category, crowd, bbox in zip(
            *(column[candidates].tolist() for column in columns_of_candidates), strict=True
        )
    ]
    counts = Counter(places)
    again = np.zeros(len(hashes), bool)
    again[candidates] = [counts[place] > 1 for place in places]
    # Those of an image or a class that is not there are errors of their own.
    return again & (dataset.images >= 0) & (dataset.classes >= 0)


def _hashes(dataset: Columns, block: slice) -> np.ndarray:
    """A number for each annotation that is the same for the same image, class, crowd flag and box, uint64 [M]."""
    images = dataset.images[block].astype(np.int64)
    numbers = (images * len(dataset.categories) + dataset.classes[block]) * 2 + dataset.is_crowd[block]
    hashes = numbers.astype(np.uint64)
    for side in dataset.bbox[block].T:
        hashes ^= (side + 0.0).view(np.uint64)  # -0.0 becomes 0.0
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def _are_among(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Which values are among some, sorted ones; bool like `values`."""
    if not len(some):
        return np.zeros(len(values), bool)
    parts = [values[k : k + _BLOCK] for k in range(0, len(values), _BLOCK)]
    return np.concatenate([some[np.searchsorted(some, part).clip(max=len(some) - 1)] == part for part in parts])


def _classes(dataset: Columns) -> Iterator[Finding]:
    counts = objects_per_category(dataset)
    names = {category["id"]: category["name"] for category in dataset.categories}
    parents = {category.get("supercategory") for category in dataset.categories}
    none = [i for i in names if counts[i] == 0]
    few = [i for i in names if 0 < counts[i] < FEW_OBJECTS]
    if none:
        roboflow = any(names[i] in parents for i in none)
        yield Finding(
            False,
            "categories without an object",
            none,
            "Roboflow writes its project's name as one; it does no harm." if roboflow else "They cannot be learnt.",
            ", ".join(names[i] for i in none[:3]),
        )
    if few:
        yield Finding(
            False,
            f"categories with fewer than {FEW_OBJECTS} objects",
            few,
            "Add examples; so few are hardly learnt.",
            ", ".join(f"{names[i]} has {counts[i]}" for i in few[:3]),
        )
    same = Counter(names.values())
    twice = [i for i, name in names.items() if same[name] > 1]
    if twice:
        yield Finding(False, "categories with the name of another", twice, "They are learnt as different classes.")
    alike = Counter("".join(name.split()).casefold() for name in set(names.values()))
    similar = [i for i, name in names.items() if alike["".join(name.split()).casefold()] > 1]
    if similar:
        yield Finding(
            False,
            "categories whose names differ in capital letters or spaces alone",
            similar,
            "They are learnt as different classes. Give the objects of one class one name.",
            ", ".join(repr(names[i]) for i in similar[:3]),
        )


def objects_per_category(dataset: Columns) -> Counter:
    """{category id: annotations that are no crowd}."""
    counted = dataset.classes[~dataset.is_crowd & (dataset.classes >= 0)]
    counts = np.bincount(counted, minlength=len(dataset.categories)).tolist()
    return Counter({category["id"]: count for category, count in zip(dataset.categories, counts, strict=True) if count})


def _images(dataset: Columns) -> Iterator[Finding]:
    has_object = np.zeros(len(dataset.image_ids), bool)
    has_object[dataset.images[~dataset.is_crowd & (dataset.images >= 0)]] = True
    empty = dataset.image_ids_of(~has_object)
    if len(empty) == len(dataset.image_ids):
        yield Finding(
            True, "images, which is all, have no object", empty, "There is nothing to learn. Is this the right json?"
        )
    elif empty:
        yield Finding(False, "images without an object", empty, "They teach what is background.")
    same = Counter(dataset.file_names)
    if len(same) < len(dataset.file_names):
        twice = dataset.image_ids_of(np.array([same[name] > 1 for name in dataset.file_names]))
        yield Finding(False, "images whose file is listed more than once", twice, "Join their annotations.")


def _crowded(dataset: Columns) -> Iterator[Finding]:
    """Images with more objects of one class than COCO's AP counts."""
    pairs = np.empty(len(dataset.images), np.int64)  # a number for each image and class; -1 does not count
    for block in _blocks(dataset):
        rows, classes = dataset.images[block].astype(np.int64), dataset.classes[block]
        counts = ~dataset.is_crowd[block] & (rows >= 0) & (classes >= 0)
        pairs[block] = np.where(counts, rows * len(dataset.categories) + classes, -1)
    ordered = np.sort(pairs)
    later, earlier = ordered[COUNTED_BY_AP:], ordered[:-COUNTED_BY_AP]
    frequent = np.unique(later[(later == earlier) & (later >= 0)])
    if len(frequent):
        over = Counter(pairs[_are_among(pairs, frequent)].tolist())  # in the order of the json
        pair, most = max(over.items(), key=lambda item: item[1])
        image, category = divmod(pair, len(dataset.categories))
        images = list(dict.fromkeys(pair // len(dataset.categories) for pair in over))
        image_ids = taken(dataset.image_ids, np.array(images))
        yield Finding(
            False,
            f"images with more than {COUNTED_BY_AP} objects of one class",
            image_ids,
            f"AP counts the {COUNTED_BY_AP} best detections of an image and class. "
            f"Set dataloader.evaluator.max_dets_per_image={most} and model.postprocess.top_k to as many or more.",
            f"image {image_ids[images.index(image)]!r} has {most} of {dataset.categories[category]['name']}",
        )


def image_findings(entries: list[dict], images: Path, decode: bool) -> Iterator[Finding]:
    """Opens the files of the images; those that are missing are another finding."""
    looked = _opened(entries, images, decode)
    broken = [(entry, seen) for entry, seen in zip(entries, looked, strict=True) if isinstance(seen, str)]
    if broken:
        yield Finding(
            True,
            "images that cannot be read",
            [entry["id"] for entry, _ in broken],
            "Replace the files, take the images out of the json, or train without them: data.skip_bad_images=true.",
            f"the first is {images / broken[0][0]['file_name']}: {broken[0][1]}",
        )
    headers = [(entry, seen) for entry, seen in zip(entries, looked, strict=True) if isinstance(seen, Header)]
    other_size = [(e, seen) for e, seen in headers if (seen.width, seen.height) != (e["width"], e["height"])]
    if other_size:
        entry, seen = other_size[0]
        yield Finding(
            True,
            "images with another size than the json says",
            [entry["id"] for entry, _ in other_size],
            "Correct width and height in the json; if they are swapped, the files have an EXIF rotation that the "
            "json does not know of: save them without it.",
            f"the first is {images / entry['file_name']}: {seen.width} x {seen.height}, not {entry['width']} x "
            f"{entry['height']}",
        )
    deep = [entry["id"] for entry, seen in headers if seen.is_deep]
    if deep:
        yield Finding(
            False,
            "images with more than 8 bits a channel",
            deep,
            "Each is scaled to 8 bits by its own smallest and largest value. Convert them to 8 bits yourself if all "
            "must have one scale.",
        )


def _opened(entries: list[dict], images: Path, decode: bool) -> list[Header | str | None]:
    """For each image: its header; why it cannot be read; or None where it has no file."""

    def look(entry: dict) -> Header | str | None:
        try:
            return read_header(images / entry["file_name"], decode)
        except FileNotFoundError:
            return None
        except PictureError as error:
            return str(error)

    # Pillow lets other threads run while it decodes. One a core: each may hold a large picture.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        # `disable=None`: a bar in a terminal, nothing in a log file.
        return list(tqdm(threads.map(look, entries), "images", len(entries), disable=None, leave=False))


class BadImages(NamedTuple):
    """The images that were left out of a dataset."""

    reasons: dict[str, str]  # file name -> why it cannot be read
    num_annotations: int  # that were left out with them


def read_without_bad_images(json: Path, images: Path, within: Path | None = None) -> tuple[Normalised, BadImages]:
    """As `structure.read_normalised`, without the images that are missing or cannot be decoded to their end.

    Raises:
        DatasetError: the dataset cannot be used for another reason, or no image can be read.
    """
    raw = load(json, images)
    normalised = normalise(raw, json)
    coco = normalised.coco
    inside = [image for image in coco["images"] if not leaves(images, image["file_name"], within or images)]
    opened = zip(inside, _opened(inside, images, decode=True), strict=True)
    bad = {image["id"]: (image["file_name"], seen) for image, seen in opened if not isinstance(seen, Header)}
    kept = {kind: [entry for entry in coco[kind] if entry[key] not in bad] for kind, key in _IMAGE_ID_KEYS.items()}
    if not kept["images"]:
        raise DatasetError(f"{json}: none of its {len(coco['images'])} images in {images} can be read.")
    count = len(coco["annotations"]) - len(kept["annotations"])
    normalised = normalised._replace(coco={**coco, **kept}, is_as_given=normalised.is_as_given and not bad)
    stop_at_errors(json, images, within, raw, normalised)
    return normalised, BadImages({name: why or "there is no such file" for name, why in bad.values()}, count)
