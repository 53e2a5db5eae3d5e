# SPDX-License-Identifier: Apache-2.0
"""The shapes dataset: a small detection dataset that is generated locally.

Five classes on textured backgrounds, written to disk once in COCO format. The same seed gives the same files:

    python -m dino_d2.data.shapes --root datasets/shapes --train 1000 --val 100 --size 128 --seed 0

    datasets/shapes/
      recipe.json                  the parameters of the generation
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
    """Parameters that determine the files. `version` is increased with every change of the drawing."""

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
    """Register one split of the shapes dataset and return its name. The dataset is generated if it does not exist.

    Meant for configs (`names=L(shapes)(split="train")`). Several processes may call it at the same time.

    Args:
        split: "train" or "val".
        root: folder that contains only this dataset.
        train, val: number of images.
        size: side of the images in pixels.
        seed: seed of the images; train and val images always differ.

    Raises:
        DatasetError: `root` contains something else, or shapes of another recipe. Nothing is overwritten.
    """
    if split not in _SPLITS:
        raise ValueError(f"Unknown split {split!r} of the shapes dataset; there are {' and '.join(_SPLITS)}.")
    root = Path(os.path.abspath(os.path.expanduser(root)))
    generate(root, Recipe(train=train, val=val, size=size, seed=seed))
    return coco_format(json=root / "annotations" / f"shapes_{split}.json", images=root / split)


def generate(root: Path, recipe: Recipe) -> None:
    """Generate the dataset in `root` unless it exists. `root` is created atomically."""
    if _is_there(root, recipe):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(str(root)):  # one process generates the images, the others wait
        if _is_there(root, recipe):
            return
        with cleaned_up(), tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as folder:
            drawn = Path(folder) / root.name
            for split in _SPLITS:
                _write_split(drawn, split, recipe)
            (drawn / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))
            try:
                os.replace(drawn, root)
            except OSError:  # without locks on a network drive, another machine may have been faster
                if not _is_there(root, recipe):
                    raise


def _is_there(root: Path, recipe: Recipe) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not (root / "recipe.json").is_file():
        raise DatasetError(f"{root} exists and is not a shapes dataset. Choose another `root`.")
    found = read_json(root / "recipe.json")
    if found != asdict(recipe):
        raise DatasetError(
            f"{root} was generated with {found}, but the config requests {asdict(recipe)}. Delete the folder to "
            "generate it again, or choose another `root`."
        )
    return True


def _write_split(root: Path, split: str, recipe: Recipe) -> None:
    (root / split).mkdir(parents=True)
    images: list[dict] = []
    annotations: list[dict] = []
    # `disable=None` shows the bar only in a terminal.
    for number in tqdm(range(1, getattr(recipe, split) + 1), f"drawing shapes, {split}", disable=None):
        # Each image has its own generator, so it does not depend on the other images or their order.
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
    parser.add_argument(
        "--root", type=Path, default=Path("datasets/shapes"), help="folder that contains only this dataset"
    )
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
