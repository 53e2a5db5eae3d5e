# SPDX-License-Identifier: Apache-2.0
"""YOLO: one text file an image, one object a line: class number, centre, width, height, all as shares of the image."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dino_d2.data.check import DatasetError
from dino_d2.data.walk import files_below, is_file

from .dataset import (
    IMAGE_SUFFIXES,
    AnnotatedImage,
    Box,
    Dataset,
    check_classes,
    image_size,
    is_within,
    split_of_folders,
)
from .text import lines_of, read_yaml

#: Plain lists of class names, one a line, which tools without a data.yaml write.
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")

#: What rows of more than five numbers may be.
LONG_ROWS = ("polygon", "pose")

#: Shares may pass 1 by rounding.
_TOLERANCE = 1e-3


class Row(NamedTuple):
    """A line of a label file: an object."""

    where: str  # file and line
    text: str
    number: float  # of its class
    values: list[float]


def is_yolo(root: Path) -> bool:
    has_names = bool(_name_files(root)) or _yaml_file(root) is not None
    return has_names or next(root.rglob("labels/"), None) is not None


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
    file = _yaml_file(root)
    content = read_yaml(file) if file else {}
    names = classes or _class_names(root, file, content)
    shape = _keypoint_shape(file, content)
    by_split = _images_of_yaml(root, file, content) if file else {}
    by_split = by_split or _images_of_folders(root)
    if not any(by_split.values()):
        raise DatasetError(f"{root}: no images below it ({', '.join(IMAGE_SUFFIXES)}). Is it the right folder?")
    labels = _labels([image for images in by_split.values() for image in images], root)
    rows = {image: _read_rows(label) for image, label in labels.items()}
    long_rows = long_rows or _kind_of_long_rows(rows, shape)
    length = 4 + math.prod(shape) if shape and long_rows == "pose" else None
    dataset = Dataset(names)
    for split, images in by_split.items():
        dataset.splits[split] = [_annotated(image, rows.get(image, []), names, long_rows, length) for image in images]
    dataset.leave_out_images_without_split("as they are in no folder of a split")
    return dataset


def _yaml_file(root: Path) -> Path | None:
    """The file with the class names: data.yaml, or the only one that has `names`.

    Raises:
        DatasetError: there are several.
    """
    files = sorted(root.glob("*.yaml")) + sorted(root.glob("*.yml"))
    usual = [file for file in files if file.stem == "data"]
    found = [file for file in usual or files if is_file(file) and "names" in read_yaml(file)]
    if len(found) > 1:
        raise DatasetError(f"{found[0]} and {found[1].name} both have class names. Keep one, and call it data.yaml.")
    return found[0] if found else None


def _name_files(root: Path) -> list[Path]:
    return [file for name in NAME_FILES for file in files_below(root, (Path(name).suffix,)) if file.name == name]


def _class_names(root: Path, file: Path | None, content: dict) -> list[str]:
    if file:
        names = _names_of_yaml(file, content)
        check_classes(names, str(file))
        return names
    found = {file: [line for _, line in lines_of(file)] for file in _name_files(root)}
    if not found:
        raise DatasetError(
            f"{root}: no class names. Add a data.yaml with `names: [cat, dog]`, a classes.txt with a name a line, or "
            "give --classes cat dog."
        )
    (first, names), *others = found.items()
    for other, other_names in others:
        if other_names != names:
            raise DatasetError(f"{first} and {other} have different class names. Delete the wrong one.")
    check_classes(names, str(first))
    if not names:
        raise DatasetError(f"{first} has no class names. Write one a line.")
    return names


def _names_of_yaml(file: Path, content: dict) -> list[str]:
    names = content["names"]
    if isinstance(names, dict):
        if set(names) != set(range(len(names))) or any(isinstance(number, bool) for number in names):
            numbers = [str(number)[:20] for number in list(names)[:20]]
            raise DatasetError(f"{file}: the numbers of `names` must be 0 to {len(names) - 1}, not {numbers}.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DatasetError(f"{file}: `names` must be a list of class names, such as [cat, dog].")
    for number, name in enumerate(names):
        # YAML reads no, off, yes, 1.0 and 2026-01-01 as other things than text; which text was meant is lost.
        if not isinstance(name, str) and type(name) is not int:
            raise DatasetError(f"{file}: name {number} is read as {type(name).__name__}. Put it in quotes.")
    count = content.get("nc")
    if count is not None and (type(count) is not int or count != len(names)):
        raise DatasetError(
            f"{file}: `nc` is {str(count)[:40]}, but there are {len(names)} `names`. Correct one of them."
        )
    return [str(name) for name in names]


def _keypoint_shape(file: Path | None, content: dict) -> list[int] | None:
    shape = content.get("kpt_shape")
    if shape is None:
        return None
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(side) is int for side in shape)):
        raise DatasetError(f"{file}: `kpt_shape` must be [number of key points, 2 or 3].")
    if not 0 < shape[0] < 10_000 or shape[1] not in (2, 3):
        raise DatasetError(f"{file}: `kpt_shape` is {shape}; it must be [number of key points, 2 or 3].")
    return shape


def _images_of_yaml(root: Path, file: Path, content: dict) -> dict[str | None, list[Path]]:
    """The images of `train`, `val` and `test` of data.yaml."""
    path = content.get("path")
    if not isinstance(path, str | None):
        raise DatasetError(f"{file}: `path` must be a folder, not {type(path).__name__}.")
    base = root / Path(path or "").expanduser()
    by_split: dict[str | None, list[Path]] = {}
    for split in ("train", "val", "test"):
        entries = content.get(split) or []
        images: list[Path] = []
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, str):
                raise DatasetError(
                    f"{file}: {split}: must be a folder or a list of folders, not {type(entry).__name__}."
                )
            place = _place(entry, split, root, base, file)
            images += _images_below(place) if place.is_dir() else _images_of_list(place, base, root)
        if images:
            by_split[split] = images
    return by_split


def _place(entry: str, split: str, root: Path, base: Path, file: Path) -> Path:
    """The folder, or the list of images, that an entry of data.yaml names."""
    # Roboflow writes ../train/images for what is train/images beside the file.
    tried = [base / entry, root / entry, root / entry.removeprefix("../")]
    there = [Path(os.path.abspath(place)) for place in tried if "\0" not in entry and os.path.exists(place)]
    inside = [place for place in there if is_within(place, root)]
    if inside:
        return inside[0]
    if there:
        raise DatasetError(
            f"{file}: {split}: {entry} is {there[0]}, outside {root}. Convert the folder that has the images, with a "
            "data.yaml in it whose paths are relative to it."
        )
    raise DatasetError(f"{file}: {split}: {entry} is neither in {base} nor in {root}. Correct the path.")


def _images_of_list(file: Path, base: Path, root: Path) -> list[Path]:
    images = []
    for number, line in lines_of(file):
        tried = [Path(os.path.normpath(folder / line)) for folder in (base, file.parent)]
        image = next((path for path in tried if is_file(path)), None)
        if image is None:
            raise DatasetError(f"{file}:{number}: there is no image {tried[0]}. Add it, or delete the line.")
        if not is_within(image, root):
            raise DatasetError(
                f"{file}:{number}: {line} leads out of {root}. Move the image there, or delete the line."
            )
        images.append(image)
    return images


def _images_of_folders(root: Path) -> dict[str | None, list[Path]]:
    by_split: dict[str | None, list[Path]] = {}
    for image in _images_below(root):
        by_split.setdefault(split_of_folders(image, root), []).append(image)
    return by_split


def _images_below(folder: Path) -> list[Path]:
    return sorted(files_below(folder, IMAGE_SUFFIXES))


def _labels(images: list[Path], root: Path) -> dict[Path, Path]:
    """The label files of the images that have one.

    Raises:
        DatasetError: no image has one, or two images share one.
    """
    labels = {image: label for image in images if (label := next(filter(is_file, _label_files(image, root)), None))}
    if images and not labels:
        raise DatasetError(
            f"{images[0]}: there is no {' or '.join(map(str, _label_files(images[0], root)))}, and no other image has "
            "a label file either. Put the labels there."
        )
    owner: dict[Path, Path] = {}
    for image, label in labels.items():
        if owner.setdefault(label, image) != image:
            raise DatasetError(f"{owner[label]} and {image} share the labels {label}. Keep one of the two images.")
    return labels


def _label_files(image: Path, root: Path) -> Iterator[Path]:
    """images/train/1.jpg -> labels/train/1.txt, or 1.txt beside the image."""
    parts = list(image.relative_to(root).with_suffix(".txt").parts)
    for i in reversed([i for i, part in enumerate(parts[:-1]) if part == "images"]):
        yield root.joinpath(*parts[:i], "labels", *parts[i + 1 :])
    yield image.with_suffix(".txt")


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
    long_rows = [row for of_image in rows.values() for row in of_image if len(row.values) > 4]
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
    if count != 4:
        fits = count > 4 and length in (None, count) if long_rows == "pose" else count >= 6 and count % 2 == 0
        if not fits:
            needed = f"or {length + 1} with key points" if length else f"or a {long_rows}"
            raise DatasetError(f"{where}: {count + 1} numbers; needed are 5 (class, x, y, width, height) {needed}.")
    if number not in range(len(names)):
        raise DatasetError(
            f"{where}: class {number:g}, but there are {len(names)} class names, 0 ({names[0]}) to {len(names) - 1} "
            f"({names[-1]}). Correct the line or the names."
        )
    is_box = count == 4 or long_rows == "pose"
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
