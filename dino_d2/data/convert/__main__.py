# SPDX-License-Identifier: Apache-2.0
"""Pascal VOC or YOLO to COCO json: python -m dino_d2.data.convert FOLDER"""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from dino_d2.data.check import DatasetError

from .dataset import Dataset, check_classes, check_splits, hold_out, write
from .voc import is_voc, read_voc
from .yolo import LONG_ROWS, is_yolo, read_yolo


def main(arguments: list[str] | None = None, prog: str = "python -m dino_d2.data.convert") -> int:
    """Writes FOLDER/annotations/instances_{train,val}.json and prints how to go on; 1 if it cannot, else 0."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Writes COCO jsons for a folder in Pascal VOC or YOLO format. Images are left where they are.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--format", choices=("voc", "yolo"), help="recognised by the files if not given")
    parser.add_argument("--output", type=Path, help="folder of the jsons; FOLDER/annotations if not given")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="in order, where the folder does not name them")
    parser.add_argument("--val", type=float, default=0.2, help="share held out if the folder has no splits (0.2)")
    parser.add_argument("--long-rows", choices=LONG_ROWS, help="what YOLO rows of more than five numbers are")
    options = parser.parse_args(arguments)
    root = Path(os.path.abspath(options.folder.expanduser()))
    folder = Path(os.path.abspath(options.output.expanduser())) if options.output else root / "annotations"
    try:
        if options.classes:
            check_classes(options.classes, "--classes")
        format_name = options.format or find_format(root)
        if format_name == "voc":
            dataset = read_voc(root, options.classes)
        else:
            dataset = read_yolo(root, options.classes, options.long_rows)
        undivided = len(dataset.splits.get(None, []))
        check_splits(dataset, root)
        hold_out(dataset, options.val)
        files = write(dataset, root, folder)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{root}: {format_name.upper()}, {len(dataset.classes)} classes ({', '.join(dataset.classes[:10])})")
    for note in dataset.notes:
        print(note)
    if undivided:
        print(f"no splits in the folder: {options.val:.0%} of the images are held out for validation (--val)")
    for split, file in files.items():
        print(f"  {split}: {summary(dataset, split)} -> {file}")
    print("\n" + how_to_go_on(root, folder, files))
    return 0


def find_format(root: Path) -> str:
    """
    Raises:
        DatasetError: there is no such folder, or it is in neither format, or in both.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}. Check the path.")
    formats = [name for name, is_format in (("voc", is_voc), ("yolo", is_yolo)) if is_format(root)]
    if len(formats) == 1:
        return formats[0]
    if formats:
        raise DatasetError(f"{root} has files of Pascal VOC and of YOLO. Say which to read: --format voc or yolo.")
    raise DatasetError(
        f"{root} is neither Pascal VOC (no .xml file below it) nor YOLO (no data.yaml with `names`, no classes.txt, no "
        "folder labels). A COCO json needs no conversion: give it with data.train.json."
    )


def summary(dataset: Dataset, split: str) -> str:
    images = dataset.splits[split]
    objects = sum(len(image.boxes) for image in images)
    empty = sum(not image.boxes for image in images)
    return f"{len(images)} images, {objects} objects" + (f", {empty} images without an object" if empty else "")


def how_to_go_on(root: Path, folder: Path, files: dict[str, Path]) -> str:
    """The command that trains, in words for a shell; or what it lacks."""
    missing = [split for split in ("train", "val") if split not in files]
    command = train_command(root, folder, files)
    if not missing:
        return f"To train:\n  {command}"
    return (
        f"To train, {missing[0]} images are needed besides: convert a folder that has them, and add "
        f"data.{missing[0]}.json=FILE data.{missing[0]}.images=FOLDER to\n  {command}"
    )


def train_command(root: Path, folder: Path, files: dict[str, Path]) -> str:
    if folder == root / "annotations":
        keys = {"data.root": root}
    else:
        splits = [split for split in ("train", "val") if split in files]
        keys = {key: path for s in splits for key, path in ((f"data.{s}.json", files[s]), (f"data.{s}.images", root))}
    overrides = " ".join(shlex.quote(f"{key}={quoted(str(path))}") for key, path in keys.items())
    return f"python train_net.py --config-file configs/dino/dino_r50_4scale_custom.py {overrides}"


def quoted(value: str) -> str:
    """A path as the value of an override, which is read in Hydra's grammar: in quotes where it has special signs."""
    if re.fullmatch(r"[A-Za-z0-9_./+-]*[A-Za-z_/][A-Za-z0-9_./+-]*", value):
        return value
    # A backslash counts as itself in quotes, but for those before a quote.
    return '"' + re.sub(r'(\\*)(?="|$)', r"\1\1", value).replace('"', '\\"') + '"'


if __name__ == "__main__":
    sys.exit(main())
