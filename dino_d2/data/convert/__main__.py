"""Pascal VOC or YOLO to COCO json: python -m dino_d2.data.convert FOLDER"""

import argparse
import os
import sys
from pathlib import Path

from dino_d2.data.check import DatasetError

from .dataset import Dataset, hold_out, write
from .voc import is_voc, read_voc
from .yolo import is_yolo, read_yolo

READERS = {"voc": read_voc, "yolo": read_yolo}


def main(arguments: list[str] | None = None, prog: str = "python -m dino_d2.data.convert") -> int:
    """Writes FOLDER/annotations/instances_{train,val}.json and says how to go on; 1 if it cannot, else 0."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Writes COCO jsons for a folder in Pascal VOC or YOLO format. Images are left where they are.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--format", choices=READERS, help="found by itself if not given")
    parser.add_argument("--output", type=Path, help="folder of the jsons; FOLDER/annotations if not given")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="in order, where the folder does not say")
    parser.add_argument("--val", type=float, default=0.2, help="share held out if the folder has no splits (0.2)")
    options = parser.parse_args(arguments)
    root = Path(os.path.abspath(options.folder.expanduser()))
    folder = Path(os.path.abspath(options.output.expanduser())) if options.output else root / "annotations"
    try:
        format_name = options.format or find_format(root)
        dataset = READERS[format_name](root, options.classes)
        undivided = len(dataset.splits.get(None, []))
        hold_out(dataset, options.val)
        files = write(dataset, root, folder)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{root}: {format_name.upper()}, {len(dataset.classes)} classes ({', '.join(dataset.classes[:10])})")
    if undivided:
        print(f"no splits in the folder: {options.val:.0%} of the images are held out for validation (--val)")
    for split, file in files.items():
        print(f"  {split}: {summary(dataset, split)} -> {file}")
    print("\nTo train:\n  " + train_command(root, folder, files))
    return 0


def find_format(root: Path) -> str:
    """
    Raises:
        DatasetError: there is no such folder, or it is in neither format.
    """
    if not root.is_dir():
        raise DatasetError(f"there is no folder {root}. Check the path.")
    if is_voc(root):
        return "voc"
    if is_yolo(root):
        return "yolo"
    raise DatasetError(
        f"{root} is neither Pascal VOC (no .xml file below it) nor YOLO (no data.yaml with `names`, no classes.txt, no "
        "folder labels). A COCO json needs no conversion: give it with data.train.json."
    )


def summary(dataset: Dataset, split: str) -> str:
    images = dataset.splits[split]
    objects = sum(len(image.boxes) for image in images)
    empty = sum(not image.boxes for image in images)
    return f"{len(images)} images, {objects} objects" + (f", {empty} images without an object" if empty else "")


def train_command(root: Path, folder: Path, files: dict[str, Path]) -> str:
    start = "python train_net.py --config-file configs/dino/dino_r50_4scale_custom.py"
    if folder == root / "annotations":
        return f"{start} data.root={root}"
    paths = [f"data.{s}.json={files[s]} data.{s}.images={root}" for s in ("train", "val") if s in files]
    return f"{start} {' '.join(paths)}"


if __name__ == "__main__":
    sys.exit(main())
