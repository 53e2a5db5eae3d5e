# SPDX-License-Identifier: Apache-2.0
"""Labels of other formats to COCO json: python -m dino_d2.data.convert FOLDER"""

import argparse
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dino_d2.data.check import DatasetError
from dino_d2.data.train_command import FROM_SCRATCH, how_to_train, train_command

from .coco import is_coco, read_coco_without_splits
from .cvat import is_cvat, read_cvat
from .dataset import Dataset, check_boxes, check_classes, check_splits, hold_out, note_copies, write
from .labelme import is_labelme, read_labelme
from .table import is_csv, read_csv
from .via import is_via, read_via
from .voc import is_voc, read_voc
from .yolo import LONG_ROWS, read_yolo
from .yolo_files import is_yolo


class Format(NamedTuple):
    """A format of labels."""

    title: str
    sign: str  # by which it is recognised
    is_here: Callable[[Path], bool]
    read: Callable[[Path, list[str] | None], Dataset]


FORMATS = {
    "voc": Format("Pascal VOC", ".xml files with <annotation>", is_voc, read_voc),
    "yolo": Format("YOLO", "a data.yaml with `names`, a classes.txt or a folder labels", is_yolo, read_yolo),
    "labelme": Format("LabelMe", ".json files with `shapes`", is_labelme, read_labelme),
    "cvat": Format("CVAT", "an .xml file with <annotations>", is_cvat, read_cvat),
    "via": Format("VIA", "a .json file whose entries have `filename` and `regions`", is_via, read_via),
    "csv": Format("CSV", "a .csv file with columns for file, class and corners", is_csv, read_csv),
    "coco": Format(
        "COCO", "a .json file with `images`, `annotations` and `categories`", is_coco, read_coco_without_splits
    ),
}


def main(arguments: list[str] | None = None, prog: str = "python -m dino_d2.data.convert") -> int:
    """Write FOLDER/annotations/instances_{train,val}.json and print the next command; returns 1 on failure, else 0."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Writes COCO jsons for a folder with labels of another format, or for COCO jsons without a split. "
        "Images are left where they are.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--format", choices=FORMATS, help="recognised by the files if not given")
    parser.add_argument("--output", type=Path, help="folder of the jsons; FOLDER/annotations if not given")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="in order, where the folder does not name them")
    parser.add_argument("--val", type=float, default=0.2, help="share held out if there is no validation split (0.2)")
    parser.add_argument("--long-rows", choices=LONG_ROWS, help="what YOLO rows of more than five numbers are")
    options = parser.parse_args(arguments)
    root = Path(os.path.abspath(options.folder.expanduser()))
    folder = Path(os.path.abspath(options.output.expanduser())) if options.output else root / "annotations"
    try:
        if options.classes:
            check_classes(options.classes, "--classes")
        format_name = options.format or find_format(root)
        read = FORMATS[format_name].read
        if format_name == "yolo":
            read = partial(read_yolo, long_rows=options.long_rows)
        elif options.long_rows:
            raise DatasetError(f"--long-rows is for YOLO, and {root} is {FORMATS[format_name].title}. Leave it out.")
        dataset = read(root, options.classes)
        without_validation = dataset.splits.keys().isdisjoint({"val"})
        check_splits(dataset, root)
        check_boxes(dataset, root)
        note_copies(dataset)
        hold_out(dataset, options.val)
        files = write(dataset, root, folder)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{root}: {FORMATS[format_name].title}, {len(dataset.classes)} classes ({', '.join(dataset.classes[:10])})")
    for note in dataset.notes:
        print(note)
    if without_validation and "val" in dataset.splits:
        print(f"no validation split in the folder: {options.val:.0%} of the images are held out for it (--val)")
    for split, file in files.items():
        print(f"  {split}: {summary(dataset, split)} -> {file}")
    print("\n" + how_to_go_on(root, folder, files))
    return 0


def find_format(root: Path) -> str:
    """
    Raises:
        DatasetError: there is no such folder, or it is in none of the formats, or in several.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}. Check the path.")
    # A folder in another format may have been converted to COCO before.
    formats = [name for name, format_ in FORMATS.items() if name != "coco" and format_.is_here(root)]
    if not formats and is_coco(root):
        return "coco"
    if len(formats) == 1:
        return formats[0]
    if formats:
        titles = " and of ".join(FORMATS[name].title for name in formats)
        raise DatasetError(f"{root} has files of {titles}. Say which to read: --format {' or '.join(formats)}.")
    raise DatasetError(
        f"{root} is in none of the formats that are read: "
        + "; ".join(f"{format_.title} ({format_.sign})" for format_ in FORMATS.values())
        + ". Check the folder."
    )


def summary(dataset: Dataset, split: str) -> str:
    images = dataset.splits[split]
    objects = sum(len(image.boxes) for image in images)
    empty = sum(not image.boxes for image in images)
    return f"{len(images)} images, {objects} objects" + (f", {empty} images without an object" if empty else "")


def how_to_go_on(root: Path, folder: Path, files: dict[str, Path]) -> str:
    """The command for training on the result, or the missing split."""
    missing = [split for split in ("train", "val") if split not in files]
    if folder == root / "annotations":
        keys = {"data.root": root}
    else:
        splits = [split for split in ("train", "val") if split in files]
        keys = {key: path for s in splits for key, path in ((f"data.{s}.json", files[s]), (f"data.{s}.images", root))}
    if not missing:
        return how_to_train(keys)
    return (
        f"To train, {missing[0]} images are needed besides: convert a folder that has them, and add "
        f"data.{missing[0]}.json=FILE data.{missing[0]}.images=FOLDER to\n  {train_command(FROM_SCRATCH, keys)}"
    )


if __name__ == "__main__":
    sys.exit(main())
