# SPDX-License-Identifier: Apache-2.0
"""The image files of a folder: the image of each label file, image sizes, and splits by folder name."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import TypeVar

from dino_d2.data.check import DatasetError
from dino_d2.data.pictures import PictureError, read_header
from dino_d2.data.split_names import splits_in
from dino_d2.data.walk import files_below, is_file

Entry = TypeVar("Entry")
Image = TypeVar("Image")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class MissingImage(DatasetError):
    """The image of a label is not in the folder."""


class ImageIndex:
    """The images below a folder, looked up by their names in label files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = list(files_below(root, IMAGE_SUFFIXES))
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in self.files:
            self._by_stem[path.stem].append(path)

    def of_label_file(self, label_file: Path, name: str) -> Path:
        """The image of a label file that has one: at the path it names, otherwise the nearest of the file's own stem.

        Args:
            name: as written in the label file; a bare name, a path of any machine, or empty.

        Raises:
            MissingImage: there is no such image in the folder.
            DatasetError: there are several that are as near.
        """
        return self._find(name, label_file, (label_file.stem, _stem(name)), str(label_file))

    def of_entry(self, label_file: Path, name: str, where: str) -> Path:
        """The image of an entry in a label file that has many, as :meth:`of_label_file`; `where` is for messages."""
        return self._find(name, label_file, (_stem(name),), where)

    def _find(self, name: str, label_file: Path, stems: tuple[str, ...], where: str) -> Path:
        name = name.replace("\\", "/")
        for folder in (label_file.parent, self.root):
            path = Path(os.path.normpath(folder / name))
            if name and is_within(path, self.root) and path.suffix.lower() in IMAGE_SUFFIXES and is_file(path):
                return path
        candidates = next((found for stem in stems if (found := self._by_stem.get(stem))), [])
        if not candidates:
            raise MissingImage(
                f"{where}: its image {name[:200] or stems[0]} is nowhere in the folder. Add it there, or delete the "
                "labels."
            )
        # annotations/train/1.xml belongs to images/train/1.jpg and not to images/val/1.jpg.
        parts = {*label_file.parts, *name.split("/")}
        rank = {path: (len({*path.parts} & parts), path.name == Path(name).name) for path in candidates}
        nearest = [path for path in candidates if rank[path] == max(rank.values())]
        if len(nearest) > 1:
            raise DatasetError(
                f"{where}: its image could be {nearest[0]} or {nearest[1]}. Put the label file next to its image, or "
                "correct the file name in it."
            )
        return nearest[0]


def read_each(entries: Iterable[Entry], read: Callable[[Entry], Image]) -> Iterator[tuple[Entry, Image]]:
    """The entries (label files, or parts of one) with the result of reading them.

    Raises:
        DatasetError: an entry cannot be used; where images are missing, how many, after all others were read.
    """
    missing: list[MissingImage] = []
    for entry in entries:
        try:
            yield entry, read(entry)
        except MissingImage as error:  # noqa: PERF203
            missing.append(error)
    if len(missing) > 1:
        raise DatasetError(f"{missing[0]} There are {len(missing)} without their image.")
    if missing:
        raise missing[0]


def _stem(name: str) -> str:
    """The file name without folders, in the syntax of any system, and without the suffix of an image."""
    path = PureWindowsPath(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else path.name


def image_size(file: Path) -> tuple[int, int]:
    """(width, height) after the EXIF rotation, which the boxes of labelling tools refer to.

    Raises:
        DatasetError: the file cannot be read.
    """
    try:
        header = read_header(file, decode=False)
    except (PictureError, FileNotFoundError) as error:
        raise DatasetError(f"{file} cannot be read: {error}. Replace it, or take it and its labels out.") from error
    return header.width, header.height


def check_stated_size(where: str, image: Path, size: tuple[int, int], width: object, height: object) -> None:
    """
    Args:
        where: the label file, for the message.
        size: (width, height) of the image.
        width, height: as the label file states them; anything but positive numbers states nothing.

    Raises:
        DatasetError: they differ.
    """
    stated = _pixels(width), _pixels(height)
    if None not in stated and stated != size:
        raise DatasetError(
            f"{where}: width and height are {stated[0]:g} and {stated[1]:g}, but {image} has {size[0]} x {size[1]} "
            "pixels. Boxes are pixels of the image that was labelled: put that one back, or label this one."
        )


def _pixels(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if number > 0 else None


def split_of_folders(file: Path, root: Path) -> str | None:
    """The split in the folder names of a file below a root, such as "val" for images/val2017/1.jpg; None without one.

    Raises:
        DatasetError: they name several.
    """
    splits = set().union(*map(splits_in, file.relative_to(root).parts[:-1]))
    if len(splits) > 1:
        raise DatasetError(
            f"{file}: the names of its folders speak of {' and '.join(sorted(splits))}. Rename a folder, so that they "
            "name one split."
        )
    return splits.pop() if splits else None


def split_of_label_file(file: Path, root: Path) -> str | None:
    """The split in the name of a label file or its folders, such as "val" for labels/val_2017.csv."""
    return split_of_folders(file.with_suffix("") / file.name, root)


def is_within(path: Path, root: Path) -> bool:
    """Whether a path is inside a folder; only its text is checked, because links in the folder may point anywhere."""
    return Path(os.path.abspath(path)).is_relative_to(root)
