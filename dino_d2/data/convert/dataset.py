# SPDX-License-Identifier: Apache-2.0
"""What the readers return, and how it becomes COCO jsons."""

import functools
import hashlib
import json
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dino_d2.data.check import DatasetError
from dino_d2.data.check.fields import is_text
from dino_d2.data.check.splits import source_name
from dino_d2.data.pictures import PictureError, read_header
from dino_d2.data.split_names import splits_in
from dino_d2.files import write_atomically

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True)
class Box:
    """An object: class, and COCO's [x, y, width, height] in pixels, counted from 0."""

    name: str
    xywh: tuple[float, float, float, float]
    is_crowd: bool = False  # neither to be learnt nor to be missed


@dataclass(frozen=True)
class AnnotatedImage:
    """An image file, its size in pixels and its objects."""

    file: Path
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass
class Dataset:
    """Images by split ("train", "val", "test"; None where the folder names none) and the classes in order."""

    classes: list[str]
    splits: dict[str | None, list[AnnotatedImage]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what was left out, for people

    def leave_out_images_without_split(self, where: str) -> None:
        """Drop the images of no split where there are training or validation images.

        Such images may be in either split or in none; to divide them would put some of them where they must not be.
        """
        if self.splits.keys() & {"train", "val"} and (rest := self.splits.pop(None, [])):
            self.notes.append(f"{len(rest)} images are left out, {where}; the first is {rest[0].file}")


def check_classes(names: list[str], where: str) -> None:
    """
    Raises:
        DatasetError: two classes have one name, or a name is empty or cannot be written as UTF-8.
    """
    for number, name in enumerate(names):
        if not (is_text(name) and name.strip()):
            raise DatasetError(f"{where}: the name of class {number} is {name!r}. Give it a name.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        numbers = [str(number) for number, name in enumerate(names) if name == twice[0]]
        raise DatasetError(
            f"{where}: classes {' and '.join(numbers)} are both called {twice[0]!r}. Give each its own name, or make "
            "them one class in the labels."
        )


def hold_out(dataset: Dataset, share: float) -> None:
    """Divide the images that belong to no split into "train" and "val", in place.

    Which image goes where depends on the name of its photograph alone, so that it stays there when images are added,
    and all augmented copies of a photograph stay together (see `dino_d2.data.check.splits.source_name`). Each split
    gets at least one photograph.

    Args:
        share: of the photographs that go to "val", about; in [0, 1]. With 0 or 1 there is one split.

    Raises:
        DatasetError: the share is out of its range, or there are too few photographs for two splits.
    """
    if not 0 <= share <= 1:
        raise DatasetError(f"--val {share}: the share that is held out must be between 0 and 1.")
    images = dataset.splits.pop(None, [])
    if not images:
        return
    fractions = {name: _fraction(name) for name in {source_name(image.file.name) for image in images}}
    held_out = {name for name, fraction in fractions.items() if fraction < share}
    if 0 < share < 1:
        if len(fractions) < 2:
            raise DatasetError(
                f"{images[0].file}: this is the only photograph, and one cannot be divided into training and "
                "validation. Add others, or take it for training alone with --val 0."
            )
        if not held_out:
            held_out.add(min(fractions, key=lambda name: fractions[name]))
        elif len(held_out) == len(fractions):
            held_out.remove(max(fractions, key=lambda name: fractions[name]))
    for image in images:
        split = "val" if source_name(image.file.name) in held_out else "train"
        dataset.splits.setdefault(split, []).append(image)


def _fraction(name: str) -> float:
    return int(hashlib.sha256(os.fsencode(name)).hexdigest()[:8], 16) / 2**32


def check_splits(dataset: Dataset, root: Path) -> None:
    """
    Raises:
        DatasetError: an image belongs to training and validation at once, is there twice, or lies outside the folder.
    """
    seen: dict[Path, str | None] = {}
    for split, images in dataset.splits.items():
        for image in images:
            if not image.file.is_relative_to(root):
                raise DatasetError(
                    f"{image.file} lies outside {root}. Convert the folder that has the images, or move them into it."
                )
            if not is_text(str(image.file)):
                raise DatasetError(f"{str(image.file)!r}: the name is not UTF-8. Rename the file.")
            before = seen.setdefault(image.file, split)
            if before != split and {before, split} != {"val", "test"}:
                raise DatasetError(
                    f"{image.file} is in {before} and in {split}, so that AP would be measured on what was learnt. "
                    "Give each split its own images, or name none, to have some held out."
                )
        files = Counter(image.file for image in images)
        if twice := [file for file, count in files.items() if count > 1]:
            raise DatasetError(f"{twice[0]} is in {split or 'the folder'} {files[twice[0]]} times. List it once.")


def write(dataset: Dataset, root: Path, folder: Path) -> dict[str, Path]:
    """Write `folder`/instances_{split}.json with file names relative to `root`; returns the files by split.

    Raises:
        DatasetError: a file is there already, or the folder cannot be written to.
    """
    files = {split: folder / f"instances_{split}.json" for split in dataset.splits if split is not None}
    for file in files.values():
        if file.exists():
            raise DatasetError(f"{file} is there already. Delete it, or give another folder with --output.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split, file in files.items():
            content = json.dumps(to_coco(dataset.splits[split], dataset.classes, root)).encode()
            write_atomically(file, functools.partial(_write_to, content))
    except OSError as error:
        raise DatasetError(f"{folder} cannot be written to: {error}. Give another folder with --output.") from error
    return files


def _write_to(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def to_coco(images: list[AnnotatedImage], classes: list[str], root: Path) -> dict:
    """A COCO detection dictionary; categories have the ids 1, 2, ... in the order of `classes`."""
    ids = {name: i for i, name in enumerate(classes, start=1)}
    annotations: list[dict] = []
    for image_id, image in enumerate(images, start=1):
        for box in image.boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[box.name],
                    "bbox": list(box.xywh),
                    "area": box.xywh[2] * box.xywh[3],
                    "iscrowd": int(box.is_crowd),
                }
            )
    return {
        "images": [
            {"id": i, "file_name": x.file.relative_to(root).as_posix(), "width": x.width, "height": x.height}
            for i, x in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for name, i in ids.items()],
    }


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


def split_of_folders(file: Path, root: Path) -> str | None:
    """The split that the folders of a file name below a root, such as "val" of images/val2017/1.jpg; None for none.

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


def is_within(path: Path, root: Path) -> bool:
    """Whether a path leads into a folder, by its words alone: links inside the folder may lead anywhere."""
    return Path(os.path.abspath(path)).is_relative_to(root)


def finite(text: str) -> float:
    """
    Raises:
        ValueError: the text is no finite number.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value
