# SPDX-License-Identifier: Apache-2.0
"""Everything that is worth knowing about a dataset before training on it, as a table."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from dino_d2.data.pictures import Header, PictureError, read_header

from .fields import Finding, first, normalise
from .structure import faults

#: A class with fewer objects is hardly learnt.
FEW_OBJECTS = 10

#: A box that leaves its image by more than this share of the image's side is not a careless one.
FAR = 0.1

#: Detections of an image and class that COCO's AP counts.
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
        *_boxes(coco),
        *_classes(coco),
        *_images(coco),
        *_crowded(coco),
    ]
    if not any(finding.is_error for finding in findings if "leads out" in finding.what):
        findings += _files(coco["images"][:open_at_most], images, decode)
    return sorted(findings, key=lambda finding: not finding.is_error)


def table(findings: list[Finding]) -> str:
    """The findings for people to read, errors above warnings."""
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


def _boxes(coco: dict) -> Iterator[Finding]:
    sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
    beyond = [
        annotation["id"]
        for annotation in coco["annotations"]
        if annotation["image_id"] in sizes and reaches_out(annotation["bbox"], *sizes[annotation["image_id"]])
    ]
    if beyond:
        yield from _outside(coco["annotations"], sizes, beyond)
    if coco["annotations"] and all(is_share(annotation["bbox"]) for annotation in coco["annotations"]):
        yield Finding(
            True,
            "annotations whose bbox lies in 0..1",
            [annotation["id"] for annotation in coco["annotations"]],
            "COCO counts pixels: multiply by the width and height of the image.",
        )
    places = [_place(annotation) for annotation in coco["annotations"]]
    objects = Counter(places)
    again = [a["id"] for a, place in zip(coco["annotations"], places, strict=True) if objects[place] > 1]
    if again:
        yield Finding(
            False,
            "annotations with the class and bbox of another one of their image",
            again,
            "A detector finds one of them. Delete the copies.",
        )


def _outside(annotations: list[dict], sizes: dict, beyond: list) -> Iterator[Finding]:
    """Boxes that reach out of their image, or all boxes where their numbers are those of two corners."""
    inside = [a for a in annotations if a["image_id"] in sizes]
    far = 0
    for annotation in inside:
        width, height = sizes[annotation["image_id"]]
        far += reaches_out(annotation["bbox"], width, height, FAR)
    if far and all(_are_corners(a["bbox"], *sizes[a["image_id"]]) for a in inside):
        yield Finding(
            len(inside) >= FEW_OBJECTS and far >= len(inside) / 10,
            "annotations whose bbox seems to be [x0, y0, x1, y1], two corners",
            [a["id"] for a in inside],
            "As [x, y, width, height], which is what COCO means, boxes leave their images; as corners all fit. "
            "Convert them.",
        )
        return
    advice = "Such boxes are clipped."
    if len(beyond) >= max(FEW_OBJECTS, len(inside) / 3):
        advice += " So many may mean another format: COCO's boxes are [x, y, width, height], x and y of a corner."
    yield Finding(False, "annotations whose bbox is partly outside its image", beyond, advice)


def _are_corners(bbox: list[float], width: float, height: float) -> bool:
    """Whether a bbox would be a box within its image if its numbers were those of two corners."""
    x0, y0, x1, y1 = bbox
    return -1 <= x0 < x1 <= width + 1 and -1 <= y0 < y1 <= height + 1


def is_share(bbox: Sequence[float]) -> bool:
    """Whether a box lies within the first pixel, as boxes do whose numbers are shares of their image."""
    x, y, w, h = bbox
    return x >= 0 and y >= 0 and x + w <= 1 and y + h <= 1


def _place(annotation: dict) -> tuple:
    return annotation["image_id"], annotation["category_id"], annotation["iscrowd"], *annotation["bbox"]


def reaches_out(bbox: Sequence[float], width: float, height: float, margin: float = 0) -> bool:
    """Whether a box leaves its image by more than a pixel (less is rounding) plus ``margin`` times the image's side."""
    x, y, w, h = bbox
    across, down = 1 + margin * width, 1 + margin * height
    return x < -across or y < -down or x + w > width + across or y + h > height + down


def _classes(coco: dict) -> Iterator[Finding]:
    counts = objects_per_category(coco)
    names = {category["id"]: category["name"] for category in coco["categories"]}
    parents = {category.get("supercategory") for category in coco["categories"]}
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


def objects_per_category(coco: dict) -> Counter:
    """{category id: annotations that are no crowd} of a normalised dictionary."""
    return Counter(a["category_id"] for a in coco["annotations"] if not a["iscrowd"])


def _images(coco: dict) -> Iterator[Finding]:
    with_objects = {annotation["image_id"] for annotation in coco["annotations"] if not annotation["iscrowd"]}
    empty = [image["id"] for image in coco["images"] if image["id"] not in with_objects]
    if len(empty) == len(coco["images"]):
        yield Finding(
            True, "images, which is all, have no object", empty, "There is nothing to learn. Is this the right json?"
        )
    elif empty:
        yield Finding(False, "images without an object", empty, "They teach what is background.")
    same = Counter(image["file_name"] for image in coco["images"])
    twice = [image["id"] for image in coco["images"] if same[image["file_name"]] > 1]
    if twice:
        yield Finding(False, "images whose file is listed more than once", twice, "Join their annotations.")


def _crowded(coco: dict) -> Iterator[Finding]:
    """Images with more objects of one class than COCO's AP counts."""
    objects = Counter((a["image_id"], a["category_id"]) for a in coco["annotations"] if not a.get("iscrowd"))
    over = {pair: count for pair, count in objects.items() if count > COUNTED_BY_AP}
    if over:
        names = {category["id"]: category["name"] for category in coco["categories"]}
        (image, category), most = max(over.items(), key=lambda item: item[1])
        yield Finding(
            False,
            f"images with more than {COUNTED_BY_AP} objects of one class",
            list(dict.fromkeys(image for image, _ in over)),
            f"AP counts the {COUNTED_BY_AP} best detections of an image and class. "
            f"Set dataloader.evaluator.max_dets_per_image={most} and model.postprocess.top_k to as many or more.",
            f"image {image!r} has {most} of {names.get(category, category)}",
        )


def _files(entries: list[dict], images: Path, decode: bool) -> Iterator[Finding]:
    """Opens the files of the images; those that are missing are another finding."""

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
        looked = list(tqdm(threads.map(look, entries), "images", len(entries), disable=None, leave=False))
    broken = [(entry, seen) for entry, seen in zip(entries, looked, strict=True) if isinstance(seen, str)]
    if broken:
        yield Finding(
            True,
            "images that cannot be read",
            [entry["id"] for entry, _ in broken],
            "Replace the files, or take the images out of the json.",
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
