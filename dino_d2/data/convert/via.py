# SPDX-License-Identifier: Apache-2.0
"""VIA (VGG Image Annotator) 1 and 2: one JSON for many images, with regions in pixels counted from 0."""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.data.walk import files_below

from .dataset import AnnotatedImage, Box, Dataset, box_around, finite, half_size_of_ellipse
from .images import ImageIndex, image_size, read_each, split_of_folders, split_of_label_file
from .json_text import json_object

#: Attributes that may contain the class if regions have several; the first existing one is used.
CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type", "object")

#: Regions without an area, which are no objects for a detector.
_WITHOUT_AREA = ("point", "polyline")


def is_via(root: Path) -> bool:
    return any(_entries(file) for file in files_below(root, (".json",)))


def read_via(root: Path, classes: list[str] | None = None) -> Dataset:
    """Read every JSON of VIA below a folder: projects and exported annotations.

    Rectangles, polygons, circles and ellipses give the box around them; points and lines are left out and counted.
    The class is the only attribute that regions have, or the first of `CLASS_ATTRIBUTES`. Images of a folder or a JSON
    whose name says train, val, ... belong to that split.

    Args:
        root: a folder with JSON files and images.
        classes: names in order; sorted by the alphabet if not given.

    Raises:
        DatasetError: regions without a class, an image that is missing, or a region that cannot be used, with file,
            image and number.
    """
    images = ImageIndex(root)
    dataset = Dataset()
    without_area = 0
    for file in files_below(root, (".json",)):
        entries = _entries(file)
        attribute = _class_attribute(entries, file)
        of_file = read_each(entries, partial(_read_image, file=file, images=images, class_attribute=attribute))
        for entry, image in of_file:
            split = split_of_label_file(file, root) or split_of_folders(image.file, root)
            dataset.splits.setdefault(split, []).append(image)
            without_area += sum(_kind(region) in _WITHOUT_AREA for region in _regions(entry))
    if without_area:
        dataset.notes.append(f"left out: {without_area} points and lines, which have no area")
    dataset.leave_out_images_without_split("as no name of a file or folder says their split")
    dataset.name_classes(classes, str(root))
    dataset.note_images_without_labels(images.files)
    return dataset


def _entries(file: Path) -> list[dict]:
    """The images of a project or of exported annotations; none if the file is not VIA's."""
    try:
        content = json_object(file)
    except DatasetError:
        return []
    metadata = content.get("_via_img_metadata", content)
    entries = list(metadata.values()) if isinstance(metadata, dict) else []
    are_via = all(isinstance(entry, dict) and {"filename", "regions"} <= entry.keys() for entry in entries)
    return entries if are_via else []


def _regions(entry: dict) -> list[dict]:
    regions = entry["regions"]
    regions = list(regions.values()) if isinstance(regions, dict) else regions  # numbered by keys in VIA 1
    return [region for region in regions if isinstance(region, dict)] if isinstance(regions, list) else []


def _attributes(region: dict, kind: str) -> dict:
    attributes = region.get(f"{kind}_attributes")
    return attributes if isinstance(attributes, dict) else {}


def _kind(region: dict) -> object:
    return _attributes(region, "shape").get("name")


def _class_attribute(entries: Iterable[dict], file: Path) -> str:
    """
    Raises:
        DatasetError: regions have several attributes, and none has a usual name.
    """
    counts = Counter(key for entry in entries for region in _regions(entry) for key in _attributes(region, "region"))
    usual = [key for name in CLASS_ATTRIBUTES for key in counts if key.casefold() == name]
    if usual or len(counts) <= 1:
        return (usual or list(counts) or [CLASS_ATTRIBUTES[0]])[0]
    raise DatasetError(
        f"{file}: regions have the attributes {', '.join(sorted(counts))[:200]}. Which is the class? Rename it to "
        f"{CLASS_ATTRIBUTES[0]} in the file."
    )


def _read_image(entry: dict, file: Path, images: ImageIndex, class_attribute: str) -> AnnotatedImage:
    name = entry["filename"]
    where = f"{file}: image {name!s:.200}"
    if not isinstance(name, str):
        raise DatasetError(f"{where}: the file name is no text. Correct it.")
    image = images.of_entry(file, name, where)
    width, height = image_size(image)
    boxes = []
    for number, region in enumerate(_regions(entry), start=1):
        if _kind(region) not in _WITHOUT_AREA:
            boxes.append(_read_region(f"{where}: region {number}", region, class_attribute))
    return AnnotatedImage(image, width, height, tuple(boxes))


def _read_region(where: str, region: dict, class_attribute: str) -> Box:
    name = _attributes(region, "region").get(class_attribute)
    if isinstance(name, dict):  # of a checkbox: {"cat": true}
        chosen = [key for key, value in name.items() if value]
        name = chosen[0] if len(chosen) == 1 else None
    if not isinstance(name, str) or not name.strip():
        raise DatasetError(f"{where} has no class in its attribute {class_attribute}. Give it one.")
    shape = _attributes(region, "shape")
    try:
        xs, ys = _points(shape)
        return box_around(name.strip(), xs, ys)
    except (KeyError, TypeError, ValueError):
        raise DatasetError(
            f"{where} ({name:.80}): {_kind(region)!s:.40} without usable numbers. Correct or delete it."
        ) from None


def _points(shape: dict) -> tuple[list[float], list[float]]:
    """
    Raises:
        KeyError, TypeError, ValueError: a number is missing or is none, or the kind of the shape is not known.
    """
    kind = shape["name"]
    if kind == "rect":
        x, y, width, height = (finite(shape[key]) for key in ("x", "y", "width", "height"))
        return [x, x + width], [y, y + height]
    if kind in ("circle", "ellipse"):
        x, y = finite(shape["cx"]), finite(shape["cy"])
        radius_x, radius_y = (finite(shape["r" if kind == "circle" else key]) for key in ("rx", "ry"))
        half_width, half_height = half_size_of_ellipse(radius_x, radius_y, finite(shape.get("theta", 0)))
        return [x - half_width, x + half_width], [y - half_height, y + half_height]
    if kind == "polygon":
        xs, ys = list(map(finite, shape["all_points_x"])), list(map(finite, shape["all_points_y"]))
        if len(xs) != len(ys):
            raise ValueError(f"{len(xs)} x and {len(ys)} y")
        return xs, ys
    raise ValueError(kind)
