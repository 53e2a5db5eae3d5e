# SPDX-License-Identifier: Apache-2.0
"""CSV: one object a row, with a file name, a class and two corners."""

import csv
import io
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from dino_d2.data.check import DatasetError
from dino_d2.data.split_names import split_of
from dino_d2.data.walk import files_below

from .dataset import AnnotatedImage, Box, Dataset, box_around, finite
from .images import ImageIndex, check_stated_size, image_size, read_each, split_of_folders, split_of_label_file
from .text import read_text

#: Names of columns that tools write, in small letters and without signs: TensorFlow, Open Images, Roboflow, RetinaNet.
COLUMNS = {
    "file": ("filename", "file", "image", "imagepath", "imagename", "path", "imageid", "img"),
    "class": ("class", "label", "classname", "labelname", "category", "name"),
    "left": ("xmin", "x1", "left"),
    "top": ("ymin", "y1", "top"),
    "right": ("xmax", "x2", "right"),
    "bottom": ("ymax", "y2", "bottom"),
}
#: Columns that a table may have besides: the split, and the size of the image.
SPLIT_COLUMNS = ("split", "subset", "set")

_OTHERS = {
    "split": SPLIT_COLUMNS,
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
}
_CORNERS = ("left", "top", "right", "bottom")
#: Keras RetinaNet's files have no header.
_WITHOUT_HEADER = {"file": 0, "left": 1, "top": 2, "right": 3, "bottom": 4, "class": 5}


class Row(NamedTuple):
    """A row: an object, or an image without objects where it has no corners."""

    where: str  # file and line
    file: str
    name: str
    corners: tuple[float, float, float, float] | None  # left, top, right, bottom
    split: str | None
    size: tuple[str, str]  # width and height as the table states them, of the image in most tables


def is_csv(root: Path) -> bool:
    return any(_columns(file) is not None for file in files_below(root, (".csv", ".tsv")))


def read_csv(root: Path, classes: list[str] | None = None) -> Dataset:
    """Read every CSV file below a folder that has columns of a file name, a class and two corners.

    Corners are pixels counted from 0, or shares of the image where no number of the file is above 1, which is said. A
    row without corners is an image without objects. The split is that of a column called split, subset or set, or of
    the words of the file's name and folders, or of the image's folders.

    Args:
        root: a folder with CSV files and images.
        classes: names in order; sorted by the alphabet if not given.

    Raises:
        DatasetError: a row that cannot be used, with file and line, or an image that is missing.
    """
    images = ImageIndex(root)
    dataset = Dataset()
    columns_of = {file: _columns(file) for file in files_below(root, (".csv", ".tsv"))}
    others = [file for file, columns in columns_of.items() if columns is None]
    dataset.note_left_out("tables without columns for a file, a class and corners", others)
    for file, columns in columns_of.items():
        if columns is None:
            continue
        rows = list(_read_rows(file, columns))
        shares = any(row.corners for row in rows) and all(max(row.corners or (0,)) <= 1 for row in rows)
        if shares:
            dataset.notes.append(f"{file}: no number is above 1, so that corners are read as shares of the image")
        of_file = read_each(_by_image(rows), partial(_read_image, file=file, images=images, shares=shares))
        for rows_of_image, image in of_file:
            split = rows_of_image[0].split or split_of_label_file(file, root) or split_of_folders(image.file, root)
            dataset.splits.setdefault(split, []).append(image)
    dataset.leave_out_images_without_split("as neither a column nor a name of a file or folder says their split")
    dataset.name_classes(classes, str(root))
    dataset.note_images_without_labels(images.files)
    return dataset


def _columns(file: Path) -> dict[str, int] | None:
    """The number of each column; None if the table has others."""
    try:
        first = next(_lines(file), (0, []))[1]
    except DatasetError:
        return None
    header = ["".join(filter(str.isalnum, name)).casefold() for name in first]
    known = [name for name in header if any(name in names for names in (COLUMNS | _OTHERS).values())]
    if len(known) > len(set(known)):
        return None  # two columns of one name
    found = {
        key: next((header.index(name) for name in names if name in header), None)
        for key, names in (COLUMNS | _OTHERS).items()
    }
    if None not in (found[key] for key in COLUMNS):
        return {key: number for key, number in found.items() if number is not None}
    is_plain = len(first) == 6 and all(text == "" or _is_number(text) for text in first[1:5])
    return _WITHOUT_HEADER if is_plain else None


def _is_number(text: str) -> bool:
    try:
        finite(text)
    except ValueError:
        return False
    return True


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells without spaces around them) of the rows that are not empty."""
    text = read_text(file)
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            if any(cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise DatasetError(f"{file}:{reader.line_num}: no CSV: {error}. Correct the line.") from error


def _read_rows(file: Path, columns: dict[str, int]) -> Iterator[Row]:
    for number, (line, cells) in enumerate(_lines(file)):
        if number == 0 and columns is not _WITHOUT_HEADER:
            continue
        where = f"{file}:{line}"
        if len(cells) <= max(columns.values()):
            raise DatasetError(f"{where}: {len(cells)} columns; needed are {max(columns.values()) + 1}. Correct it.")
        texts = [cells[columns[key]] for key in _CORNERS]
        corners = None
        try:
            if any(texts):
                left, top, right, bottom = map(finite, texts)
                corners = (left, top, right, bottom)
        except ValueError as error:
            raise DatasetError(f"{where}: corners must be numbers: {error}. Correct the line.") from None
        split = split_of(cells[columns["split"]]) if "split" in columns else None
        width, height = (cells[columns[key]] if key in columns else "" for key in ("width", "height"))
        yield Row(where, cells[columns["file"]], cells[columns["class"]], corners, split, (width, height))


def _by_image(rows: list[Row]) -> list[list[Row]]:
    ordered = sorted(rows, key=lambda row: row.file)
    return [list(group) for _, group in groupby(ordered, key=lambda row: row.file)]


def _read_image(rows: list[Row], file: Path, images: ImageIndex, shares: bool) -> AnnotatedImage:
    image = images.of_entry(file, rows[0].file, rows[0].where)
    width, height = image_size(image)
    if len({row.split for row in rows}) > 1:
        raise DatasetError(
            f"{rows[0].where}: the rows of {rows[0].file} name several splits. An image belongs to one; correct them."
        )
    scale = (width, height) if shares else (1, 1)
    boxes = tuple(_read_box(row, scale) for row in rows if row.corners is not None)
    for row in rows:
        if not _is_size_of_box(row):
            check_stated_size(row.where, image, (width, height), *row.size)
    return AnnotatedImage(image, width, height, boxes)


def _is_size_of_box(row: Row) -> bool:
    """Whether a row states the width and height of its box and not of the image."""
    if row.corners is None or not all(map(_is_number, row.size)):
        return False
    left, top, right, bottom = row.corners
    return abs(float(row.size[0]) - (right - left)) <= 1 and abs(float(row.size[1]) - (bottom - top)) <= 1


def _read_box(row: Row, scale: tuple[int, int]) -> Box:
    if not row.name:
        raise DatasetError(f"{row.where}: the row has no class. Add it.")
    assert row.corners is not None
    left, top, right, bottom = row.corners
    if right < left or bottom < top:
        raise DatasetError(
            f"{row.where}: the box ({left:g}, {top:g}, {right:g}, {bottom:g}) ends before it begins. Columns must be "
            "corners, not width and height."
        )
    return box_around(row.name, (left * scale[0], right * scale[0]), (top * scale[1], bottom * scale[1]))
