# SPDX-License-Identifier: Apache-2.0
"""CVAT: one XML file for many images ("CVAT for images 1.1"), with shapes in pixels counted from 0."""

import math
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.data.split_names import split_of
from dino_d2.data.walk import files_below

from .dataset import AnnotatedImage, Box, Dataset, box_around, finite, half_size_of_ellipse
from .images import ImageIndex, check_stated_size, image_size, read_each, split_of_folders
from .xml_text import parse_xml, root_tag

#: Elements of an image that are no objects for a detector.
_WITHOUT_AREA = ("tag", "points", "polyline", "skeleton")


def is_cvat(root: Path) -> bool:
    return any(root_tag(file) == "annotations" for file in files_below(root, (".xml",)))


def read_cvat(root: Path, classes: list[str] | None = None) -> Dataset:
    """Read every XML file of CVAT below a folder.

    Boxes, polygons, ellipses and masks give the box around them; turned boxes the box around their turned corners;
    points, lines and tags are left out and counted. The split of an image is its subset in CVAT, or that of folders
    called train, valid, ...

    Args:
        root: a folder with annotations.xml and images.
        classes: names in order; by default the labels that objects have, sorted by the alphabet.

    Raises:
        DatasetError: a file that is broken or of a video, an image that is missing or of another size, or a shape
            that cannot be used, with file, image and number.
    """
    images = ImageIndex(root)
    files = [file for file in files_below(root, (".xml",)) if root_tag(file) == "annotations"]
    dataset = Dataset()
    without_area = 0
    for file in files:
        tree = parse_xml(file)
        if tree.find("track") is not None:
            raise DatasetError(f'{file} has tracks of a video. Export the task from CVAT as "CVAT for images 1.1".')
        for entry, image in read_each(tree.iter("image"), partial(_read_image, file=file, images=images)):
            split = split_of(entry.get("subset", "")) or split_of_folders(image.file, root)
            dataset.splits.setdefault(split, []).append(image)
            without_area += sum(shape.tag in _WITHOUT_AREA for shape in entry)
    if without_area:
        dataset.notes.append(f"left out: {without_area} points, lines and tags, which have no area")
    dataset.leave_out_images_without_split("as neither their subset nor a folder says their split")
    dataset.name_classes(classes, str(root))
    dataset.note_images_without_labels(images.files)
    return dataset


def _read_image(entry: ElementTree.Element, file: Path, images: ImageIndex) -> AnnotatedImage:
    name = entry.get("name", "")
    where = f"{file}: image {name[:200]}"
    image = images.of_entry(file, name, where)
    width, height = image_size(image)
    check_stated_size(where, image, (width, height), entry.get("width"), entry.get("height"))
    shapes = [shape for shape in entry if shape.tag not in _WITHOUT_AREA]
    boxes = tuple(_read_shape(f"{where}: object {number}", shape) for number, shape in enumerate(shapes, start=1))
    return AnnotatedImage(image, width, height, boxes)


def _read_shape(where: str, shape: ElementTree.Element) -> Box:
    name = shape.get("label", "").strip()
    if not name:
        raise DatasetError(f"{where} has no label. Add its class.")
    try:
        xs, ys = _POINTS[shape.tag](shape)
        return box_around(name, xs, ys)
    except KeyError:
        raise DatasetError(f"{where} ({name}) is a <{shape.tag[:40]}>, which is not read. Delete it.") from None
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where} ({name}): {error}. Correct or delete it.") from None


def _numbers(shape: ElementTree.Element, *names: str) -> list[float]:
    """
    Raises:
        ValueError: an attribute is missing or is no number.
    """
    texts = {name: shape.get(name) for name in names}
    if missing := [name for name, text in texts.items() if text is None]:
        raise ValueError(f"<{shape.tag}> has no {missing[0]}")
    return [finite(text) for text in texts.values() if text is not None]


def _corners(shape: ElementTree.Element) -> tuple[list[float], list[float]]:
    left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    angle = math.radians(finite(shape.get("rotation", "0")))  # clockwise, about the centre
    x, y = (left + right) / 2, (top + bottom) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    offsets = [(px - x, py - y) for px in (left, right) for py in (top, bottom)]
    return [x + dx * cos - dy * sin for dx, dy in offsets], [y + dx * sin + dy * cos for dx, dy in offsets]


def _polygon(shape: ElementTree.Element) -> tuple[list[float], list[float]]:
    points = [tuple(map(finite, point.split(","))) for point in shape.get("points", "").split(";")]
    return [x for x, _ in points], [y for _, y in points]


def _ellipse(shape: ElementTree.Element) -> tuple[list[float], list[float]]:
    x, y, radius_x, radius_y = _numbers(shape, "cx", "cy", "rx", "ry")
    angle = math.radians(finite(shape.get("rotation", "0")))
    half_width, half_height = half_size_of_ellipse(radius_x, radius_y, angle)
    return [x - half_width, x + half_width], [y - half_height, y + half_height]


def _mask(shape: ElementTree.Element) -> tuple[list[float], list[float]]:
    left, top, width, height = _numbers(shape, "left", "top", "width", "height")
    return [left, left + width], [top, top + height]


_POINTS = {"box": _corners, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}
