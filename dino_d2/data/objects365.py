"""Objects365 as DINO pre-trains on it: the first 5000 validation images validate, the others join the training set.

Looked for in ``$DETECTRON2_DATASETS/objects365`` (``./datasets/objects365`` if the variable is not set):

    annotations/zhiyuan_objv2_train.json   annotations/zhiyuan_objv2_val.json      (version 2, as published)
    train/...                              val/...

The images lie under their folder with the path that the json gives ("images/v1/patch8/x.jpg"), or with the last one
or two parts of it ("patch8/x.jpg", "x.jpg"), as people unpack them.
"""

import json as json_module
import math
import os
from collections.abc import Sequence
from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import coco_format, write_to_cache
from dino_d2.detectron2.data import MetadataCatalog

VALIDATION_IMAGES = 5000  # appendix D.2


def objects365(split: str, root: str | os.PathLike | None = None, validation_images: int = VALIDATION_IMAGES) -> str:
    """Registers a part of Objects365 and returns its name; for `names=` in a config.

    Args:
        split: "train", the published training set; "val", the first images of the published validation set; or
            "val_rest", its other images, which DINO trains on too.
        root: the dataset's own folder.
        validation_images: how many images "val" has.

    Raises:
        DatasetError: json or images are not there.
    """
    if split not in ("train", "val", "val_rest"):
        raise ValueError(f"Unknown split {split!r} of Objects365; there are train, val and val_rest.")
    root = Path(root or Path(os.environ.get("DETECTRON2_DATASETS", "datasets")) / "objects365").expanduser().absolute()
    published = "train" if split == "train" else "val"
    json = root / "annotations" / f"zhiyuan_objv2_{published}.json"
    if not json.is_file():
        raise DatasetError(f"Objects365: there is no {json}. Put it there, or give another root.")
    coco = json_module.loads(json.read_text(encoding="utf-8"))
    parts = parts_on_disk(coco["images"][0]["file_name"], root / published)
    if split == "train" and parts is None:
        return coco_format(json, root / published)
    if parts is not None:
        coco["images"] = [{**x, "file_name": "/".join(Path(x["file_name"]).parts[-parts:])} for x in coco["images"]]
    if split != "train":
        coco = part_of(coco, slice(validation_images) if split == "val" else slice(validation_images, None))
    return coco_format(write_to_cache(f"objects365_{split}", coco), root / published)


def part_of(coco: dict, images: slice) -> dict:
    """The dataset with some of its images, in the order of the file, and their annotations."""
    kept = coco["images"][images]
    ids = {image["id"] for image in kept}
    return {**coco, "images": kept, "annotations": [a for a in coco["annotations"] if a["image_id"] in ids]}


def parts_on_disk(file_name: str, folder: Path) -> int | None:
    """How many of the last parts of a json's file name lead to the image under a folder; None: the whole name.

    Raises:
        DatasetError: none does.
    """
    if (folder / file_name).is_file():
        return None
    for parts in (2, 1):
        if folder.joinpath(*Path(file_name).parts[-parts:]).is_file():
            return parts
    raise DatasetError(f"Objects365: {file_name} is not under {folder}, and neither are its last one or two parts.")


def iterations(epochs: float, datasets: Sequence[str], batch_size: int) -> int:
    """Iterations in which a model sees each image of several registered datasets ``epochs`` times."""
    images = sum(MetadataCatalog.get(name).num_images for name in datasets)
    return max(1, math.ceil(epochs * images / batch_size))
