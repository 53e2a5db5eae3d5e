# SPDX-License-Identifier: Apache-2.0
"""The shapes dataset: a small detection problem that every machine can make for itself.

Five classes on textured ground, written once to disk in COCO format, the same files from the same seed:

    python -m dino_d2.data.shapes --root datasets/shapes --train 1000 --val 100 --size 128 --seed 0

    datasets/shapes/
      recipe.json                  what it was made with
      train/000001.png ...         val/000001.png ...
      annotations/shapes_train.json, shapes_val.json
"""

import argparse
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from iopath.common.file_io import file_lock
from PIL import Image
from tqdm import tqdm

from dino_d2.data.check import DatasetError
from dino_d2.data.check.structure import read_json
from dino_d2.data.coco_format import coco_format
from dino_d2.data.shapes_drawing import CLASSES, draw_image
from dino_d2.signals import cleaned_up

_SPLITS = ("train", "val")


@dataclass(frozen=True)
class Recipe:
    """What the files on disk depend on. `version` grows with every change of the drawing."""

    train: int = 1000
    val: int = 100
    size: int = 128
    seed: int = 0
    version: int = 2


def shapes(
    split: str,
    root: str | os.PathLike = "datasets/shapes",
    train: int = 1000,
    val: int = 100,
    size: int = 128,
    seed: int = 0,
) -> str:
    """Registers one split of the shapes dataset, makes the dataset first if it is not there, returns its name.

    Meant for configs (`names=L(shapes)(split="train")`). Several processes may call it at the same time.

    Args:
        split: "train" or "val".
        root: the dataset's own folder.
        train, val: number of images.
        size: side of the images in pixels.
        seed: another seed gives other images; train and val images differ in any case.

    Raises:
        DatasetError: `root` holds something else, or shapes of another recipe; nothing is overwritten.
    """
    if split not in _SPLITS:
        raise ValueError(f"Unknown split {split!r} of the shapes dataset; there are {' and '.join(_SPLITS)}.")
    root = Path(os.path.abspath(os.path.expanduser(root)))
    generate(root, Recipe(train=train, val=val, size=size, seed=seed))
    return coco_format(json=root / "annotations" / f"shapes_{split}.json", images=root / split)


def generate(root: Path, recipe: Recipe) -> None:
    """Makes the dataset in `root`, unless it is there already. `root` appears whole or not at all."""
    if _is_there(root, recipe):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root)):  # one process draws, the others wait
        if _is_there(root, recipe):
            return
        with cleaned_up(), tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as folder:
            drawn = Path(folder) / root.name
            for split in _SPLITS:
                _write_split(drawn, split, recipe)
            (drawn / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
            try:
                os.replace(drawn, root)
            except OSError:  # some network drives know no locks: another machine may have been first
                if not _is_there(root, recipe):
                    raise


def _is_there(root: Path, recipe: Recipe) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / "recipe.json").is_file():
        raise DatasetError(f"{root} exists and is not a shapes dataset. Give another `root`.")
    found = read_json(root / "recipe.json")
    if found != asdict(recipe):
        raise DatasetError(
            f"{root} was made with {found}, but {asdict(recipe)} is asked for. Delete the folder to have it made "
            "again, or give another `root`."
        )
    return True


def _write_split(root: Path, split: str, recipe: Recipe) -> None:
    (root / split).mkdir(parents=True)
    images, annotations = [], []
    # `disable=None`: a bar in a terminal, nothing in a log file.
    for number in tqdm(range(1, getattr(recipe, split) + 1), f"drawing shapes, {split}", disable=None):
        # A generator of its own for each image: the same image whatever else is drawn, and in any order.
        rng = np.random.default_rng([recipe.seed, _SPLITS.index(split), number])
        pixels, drawn = draw_image(rng, recipe.size)
        file_name = f"{number:06d}.png"
        Image.fromarray(pixels).save(root / split / file_name, compress_level=1)
        images.append({"id": number, "file_name": file_name, "width": recipe.size, "height": recipe.size})
        for shape in drawn:
            _, _, width, height = shape.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": shape.class_index + 1,
                    "bbox": list(shape.box),
                    "area": round(width * height, 2),
                    "iscrowd": int(shape.is_crowd),
                }
            )
    coco = {
        "info": {"description": f"shapes dataset, {split}", **asdict(recipe)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASSES)],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"shapes_{split}.json").write_text(json.dumps(coco))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dino_d2.data.shapes", description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("datasets/shapes"), help="the dataset's own folder")
    parser.add_argument("--train", type=int, default=Recipe.train, help="number of training images")
    parser.add_argument("--val", type=int, default=Recipe.val, help="number of validation images")
    parser.add_argument("--size", type=int, default=Recipe.size, help="side of the images in pixels")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    options = parser.parse_args()
    try:
        generate(options.root, Recipe(options.train, options.val, options.size, options.seed))
    except DatasetError as error:
        parser.error(str(error))
    print(f"{options.train} + {options.val} images in {options.root}")


if __name__ == "__main__":
    main()
