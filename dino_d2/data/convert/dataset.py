# SPDX-License-Identifier: Apache-2.0
"""The common result of all readers, and its conversion to COCO jsons."""

import functools
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dino_d2.data.check import DatasetError
from dino_d2.data.check.fields import has_control_characters, is_text
from dino_d2.data.check.findings import FAR, is_share, reaches_out
from dino_d2.data.check.splits import shared_contents, source_name
from dino_d2.files import write_atomically


@dataclass(frozen=True)
class Box:
    """An object: class, and COCO's [x, y, width, height] in pixels, counted from 0."""

    name: str
    xywh: tuple[float, float, float, float]
    is_crowd: bool = False  # neither to be learnt nor to be missed
    others: Mapping[str, object] = field(default_factory=dict)  # fields of a COCO annotation that stay as they are


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

    classes: list[str] = field(default_factory=list)
    splits: dict[str | None, list[AnnotatedImage]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # messages about omitted entries

    def name_classes(self, given: list[str] | None, where: str) -> None:
        """The classes given by the user, or those of the boxes in alphabetical order.

        Raises:
            DatasetError: boxes have classes that are not among the given ones, or their names cannot be used.
        """
        found = sorted({box.name for images in self.splits.values() for image in images for box in image.boxes})
        if not given:
            if not found:
                raise DatasetError(f"{where} has no object in any image, so that there are no classes to learn.")
            check_classes(found, where)
        elif unknown := [name for name in found if name not in given]:
            raise DatasetError(f"{where} has classes that are not in --classes: {', '.join(unknown)}. Add them there.")
        self.classes = given or found

    def note_left_out(self, what: str, files: Sequence[Path]) -> None:
        """A note with the number and the first of files that are not read; `what` describes them in the plural."""
        if files:
            self.notes.append(f"left out: {len(files)} {what}; the first is {files[0]}")

    def note_images_without_labels(self, files: Iterable[Path]) -> None:
        """A note about the image files that are in no split, for formats that list their images."""
        read = {image.file for images in self.splits.values() for image in images}
        self.note_left_out("images that no label file names", [file for file in files if file not in read])

    def leave_out_images_without_split(self, where: str) -> None:
        """Drop images without a split if there are training or validation images.

        Such images may be in either split or in none; to divide them would put some of them where they must not be.
        """
        if self.splits.keys() & {"train", "val"} and (rest := self.splits.pop(None, [])):
            self.notes.append(f"{len(rest)} images are left out, {where}; the first is {rest[0].file}")


def check_classes(names: list[str], where: str) -> None:
    """
    Raises:
        DatasetError: two classes have one name, or a name is empty, cannot be written as UTF-8 or has a line break.
    """
    for number, name in enumerate(names):
        if not (is_text(name) and name.strip()) or has_control_characters(name):
            raise DatasetError(f"{where}: the name of class {number} is {name!r}. Give it a name.")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        numbers = [str(number) for number, name in enumerate(names) if name == twice[0]]
        raise DatasetError(
            f"{where}: classes {' and '.join(numbers)} are both called {twice[0]!r}. Give each its own name, or make "
            "them one class in the labels."
        )


def hold_out(dataset: Dataset, share: float) -> None:
    """If there are no validation images, hold out some of the images without a split or of training, in place.

    Which image goes where depends on the name of its photograph alone, so that it stays there when images are added,
    and all augmented copies of a photograph stay together (see `dino_d2.data.check.splits.source_name`). Each split
    gets at least one photograph.

    Args:
        share: of the photographs that go to "val", about; in [0, 1]. With 0 all of them are for training.

    Raises:
        DatasetError: the share is out of its range, or there are too few photographs for two splits.
    """
    if not 0 <= share <= 1:
        raise DatasetError(f"--val {share:g}: the share that is held out must be between 0 and 1; 20 % are 0.2.")
    undivided = None if None in dataset.splits else "train"
    images = dataset.splits.pop(undivided, []) if "val" not in dataset.splits else []
    if not images:
        return
    fractions = {name: _fraction(name) for name in {source_name(image.file.name) for image in images}}
    held_out = {name for name, fraction in fractions.items() if fraction < share}
    if 0 < share < 1:
        if len(fractions) < 2 and undivided == "train":
            dataset.splits["train"] = images
            return
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


def check_boxes(dataset: Dataset, root: Path) -> None:
    """Note the boxes that leave their image far.

    Raises:
        DatasetError: they are more than a third of all boxes, or all boxes lie within one pixel: the numbers are of
            another format than they are read as.
    """
    pairs = [(image, box.xywh) for images in dataset.splits.values() for image in images for box in image.boxes]
    if pairs and all(is_share(xywh) for _, xywh in pairs):
        raise DatasetError(
            f"{root}: all boxes lie within the first pixel of their image, such as {pairs[0][1]} in "
            f"{pairs[0][0].file}. The numbers seem to be shares of the image; multiply them by its width and height."
        )
    far = [(image, xywh) for image, xywh in pairs if reaches_out(xywh, image.width, image.height, FAR)]
    if not far:
        return
    image, xywh = far[0]
    words = (
        f"{len(far)} of {len(pairs)} boxes leave their image by more than {FAR:.0%} of its side; the first is "
        f"[x, y, width, height] = {list(xywh)} in {image.file} ({image.width} x {image.height} pixels)"
    )
    if len(far) > len(pairs) / 3:
        raise DatasetError(
            f"{root}: {words}. Are the numbers of another format, such as corners in place of centre and size, or is "
            "the image another one than was labelled?"
        )
    dataset.notes.append(words)


def note_copies(dataset: Dataset) -> None:
    """Note the validation images that are training images under another name."""
    train, val = (
        {"images": [{"id": str(image.file), "file_name": str(image.file)} for image in dataset.splits.get(split, [])]}
        for split in ("train", "val")
    )
    dataset.notes += [str(finding) for finding in shared_contents(train, Path("/"), val, Path("/"))]


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
                    "area": box.xywh[2] * box.xywh[3],
                    **box.others,
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[box.name],
                    "bbox": list(box.xywh),
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


def box_around(name: str, xs: Sequence[float], ys: Sequence[float]) -> Box:
    """The smallest box that holds all points, to a hundredth of a pixel."""
    left, top = min(xs), min(ys)
    return Box(name, (round(left, 2), round(top, 2), round(max(xs) - left, 2), round(max(ys) - top, 2)))


def half_size_of_ellipse(radius_x: float, radius_y: float, angle: float) -> tuple[float, float]:
    """Half the width and height of the box around a rotated ellipse; the angle is in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return math.hypot(radius_x * cos, radius_y * sin), math.hypot(radius_x * sin, radius_y * cos)


def finite(text: str | float) -> float:
    """
    Raises:
        ValueError, TypeError: no finite number.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return value
