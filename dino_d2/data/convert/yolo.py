# SPDX-License-Identifier: Apache-2.0
"""YOLO: one text file an image, one object a line: class number, centre, width, height, all as shares of the image."""

import math
from pathlib import Path
from typing import NamedTuple

from dino_d2.data.check import DatasetError

from .dataset import AnnotatedImage, Box, Dataset
from .images import IMAGE_SUFFIXES, image_size
from .text import lines_of, read_yaml
from .yolo_files import Labels, class_names, darknet_file, images_of_folders, images_of_yaml, read_darknet, yaml_file

#: Possible meanings of rows with more than five numbers.
LONG_ROWS = ("polygon", "pose")

#: Numbers of a row after its class, where it is a box with the confidence of a detector.
_WITH_CONFIDENCE = 5

#: Values may exceed 1 by rounding.
_TOLERANCE = 1e-3


class Row(NamedTuple):
    """A line of a label file: an object."""

    where: str  # file and line
    text: str
    number: float  # of its class
    values: list[float]


def read_yolo(root: Path, classes: list[str] | None = None, long_rows: str | None = None) -> Dataset:
    """Read every image below a folder, with its label file; an image without one has no objects.

    The splits are those of data.yaml, or of folders called train, valid, ..., beside which images in no such folder
    are left out; otherwise all images belong to no split.

    Args:
        root: with data.yaml, or a list of names (classes.txt, obj.names), and images and labels below.
        classes: names in order, where neither is there.
        long_rows: what rows of more than five numbers are: "polygon", of which the box around it is taken, or "pose",
            a box followed by key points, which are passed over. By default "pose" where data.yaml has `kpt_shape`,
            otherwise "polygon".

    Raises:
        DatasetError: no class names, a line that cannot be used, with file and line, or rows that may be either.
    """
    file = yaml_file(root)
    content = read_yaml(file) if file else {}
    names = classes or class_names(root, file, content)
    shape = _keypoint_shape(file, content)
    if not file and (file := darknet_file(root)):
        content = read_darknet(file)
    by_split = images_of_yaml(root, file, content) if file else {}
    by_split = by_split or images_of_folders(root)
    if not any(by_split.values()):
        raise DatasetError(f"{root}: no images below it ({', '.join(IMAGE_SUFFIXES)}). Is it the right folder?")
    labels = Labels(root)
    label_of = labels.of([image for images in by_split.values() for image in images])
    rows = {image: _read_rows(label) for image, label in label_of.items()}
    long_rows = long_rows or _kind_of_long_rows(rows, shape)
    length = 4 + math.prod(shape) if shape and long_rows == "pose" else None
    dataset = Dataset(names)
    for split, images in by_split.items():
        dataset.splits[split] = [_annotated(image, rows.get(image, []), names, long_rows, length) for image in images]
    dataset.leave_out_images_without_split("as they are in no folder of a split")
    dataset.note_left_out("label files without an image", labels.without_image(label_of.values()))
    if confident := sum(len(row.values) == _WITH_CONFIDENCE for of_image in rows.values() for row in of_image):
        dataset.notes.append(f"{confident} rows have six numbers; the last is taken for a confidence and left out")
    unlabelled = [x.file for images in dataset.splits.values() for x in images if x.file not in label_of]
    if unlabelled:
        dataset.notes.append(
            f"{len(unlabelled)} images have no label file and so no objects; the first is {unlabelled[0]}"
        )
    return dataset


def _keypoint_shape(file: Path | None, content: dict) -> list[int] | None:
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(side) is int for side in shape)):
        raise DatasetError(f"{file}: `kpt_shape` must be [number of key points, 2 or 3].")
    if not 0 < shape[0] < 10_000 or shape[1] not in (2, 3):
        raise DatasetError(f"{file}: `kpt_shape` is {shape}; it must be [number of key points, 2 or 3].")
    return shape


def _read_rows(label: Path) -> list[Row]:
    rows = []
    for line_number, line in lines_of(label):
        where = f"{label}:{line_number}"
        try:
            number, *values = map(float, line.split())
        except ValueError:
            message = f"{where}: {line[:200]!r} is not all numbers; needed are class, x, y, width, height."
            raise DatasetError(message) from None
        rows.append(Row(where, line, number, values))
    return rows


def _kind_of_long_rows(rows: dict[Path, list[Row]], shape: list[int] | None) -> str:
    """Whether rows of more than five numbers are polygons or boxes with key points.

    Raises:
        DatasetError: every row could be either.
    """
    if shape:
        return "pose"
    long_rows = [row for of_image in rows.values() for row in of_image if len(row.values) > _WITH_CONFIDENCE]
    lengths = {len(row.values) for row in long_rows}
    if len(lengths) == 1 and all(_may_be_pose(row.values) for row in long_rows):
        raise DatasetError(
            f"{long_rows[0].where}: {lengths.pop() + 1} numbers may be a polygon, or a box with key points. Add "
            "`kpt_shape` to data.yaml, as for [17, 3], or give --long-rows pose or polygon."
        )
    return "polygon"


def _may_be_pose(values: list[float]) -> bool:
    """Whether the first four numbers are a box that has all points among the others, or all that are visible."""
    x, y, w, h = values[:4]
    for step in (2, 3):
        others = values[4:]
        if len(others) % step or (step == 3 and not set(others[2::3]) <= {0.0, 1.0, 2.0}):
            continue
        points = zip(others[::step], others[1::step], strict=True)
        if all(
            (px, py) == (0, 0) or (abs(px - x) <= w / 2 + 0.01 and abs(py - y) <= h / 2 + 0.01) for px, py in points
        ):
            return True
    return False


def _annotated(image: Path, rows: list[Row], names: list[str], long_rows: str, length: int | None) -> AnnotatedImage:
    width, height = image_size(image)
    return AnnotatedImage(
        image, width, height, tuple(_box(row, names, width, height, long_rows, length) for row in rows)
    )


def _box(row: Row, names: list[str], width: int, height: int, long_rows: str, length: int | None) -> Box:
    """
    Args:
        long_rows: "polygon" or "pose".
        length: values that a row of a pose dataset has after its class; None where that is not known.
    """
    where, text, number, values = row
    count = len(values)
    has_confidence = count == _WITH_CONFIDENCE and 0 <= values[4] <= 1
    if count != 4 and not has_confidence:
        fits = count > 4 and length in (None, count) if long_rows == "pose" else count >= 6 and count % 2 == 0
        if not fits:
            needed = f"or {length + 1} with key points" if length else f"or a {long_rows}"
            raise DatasetError(f"{where}: {count + 1} numbers; needed are 5 (class, x, y, width, height) {needed}.")
    if number not in range(len(names)):
        raise DatasetError(
            f"{where}: class {number:g}, but there are {len(names)} class names, 0 ({names[0]}) to {len(names) - 1} "
            f"({names[-1]}). Correct the line or the names."
        )
    is_box = count == 4 or has_confidence or long_rows == "pose"
    shares = values[:4] if is_box else values
    if not all(math.isfinite(v) and -_TOLERANCE <= v <= 1 + _TOLERANCE for v in shares):
        raise DatasetError(
            f"{where}: {text[:200]!r} has values outside 0..1; they must be shares of the image, not pixels."
        )
    if is_box:
        x, y, w, h = shares
        left, top = x - w / 2, y - h / 2
    else:
        left, top = min(shares[::2]), min(shares[1::2])
        w, h = max(shares[::2]) - left, max(shares[1::2]) - top
    # Shares have six digits as a rule; a hundredth of a pixel is finer than that in any image below 10,000 pixels.
    left, top, w, h = (round(value, 2) for value in (left * width, top * height, w * width, h * height))
    return Box(names[int(number)], (left, top, w, h))
