# SPDX-License-Identifier: Apache-2.0
"""Objects365 as DINO pre-trains on it: the first 5000 validation images validate, the others join the training set.

Looked for in ``$DETECTRON2_DATASETS/objects365`` (``./datasets/objects365`` if the variable is not set):

    annotations/zhiyuan_objv2_train.json   annotations/zhiyuan_objv2_val.json      (version 2, as published)
    train/...                              val/...

The images lie under their folder with the path that the json gives ("images/v1/patch8/x.jpg"), or with the last one
or two parts of it ("patch8/x.jpg", "x.jpg"), as people unpack them. Six training images that nobody can use are left
out, see `UNUSABLE`.
"""

import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dino_d2.data.check import DatasetError, normalise, parse
from dino_d2.data.coco_format import coco_format, warn_of_corrections, write_to_cache
from dino_d2.data.walk import is_file
from dino_d2.detectron2.data import MetadataCatalog

VALIDATION_IMAGES = 5000  # appendix D.2

#: Images of the published training json that are not in the published archives (the first three), or that have width
#: and height swapped in it. Other projects (mmdetection, EasyCV) found them by training until it stopped.
UNUSABLE = {
    "objects365_v1_00320532.jpg",
    "objects365_v1_00320534.jpg",
    "objects365_v2_00908726.jpg",
    "objects365_v1_00509398.jpg",
    "objects365_v2_01118660.jpg",
    "objects365_v2_02024631.jpg",
}


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
    return register(split, json, json.stat().st_mtime_ns, root / published, validation_images)


@cache  # a config asks for a split several times, and the training json has some gigabytes
def register(split: str, json: Path, version: int, images: Path, validation_images: int) -> str:
    """The same for a json of some version (time of its last change) and the folder of its images."""
    normalised = normalise(parse(json), json)
    coco = normalised.coco
    warn_of_corrections(json, normalised.skipped, normalised.corrected, len(coco["annotations"]))
    if split != "train":
        part = slice(validation_images) if split == "val" else slice(validation_images, None)
        coco["images"] = coco["images"][part]  # before any is left out: the first 5000 of the published file
    kept = [image for image in coco["images"] if Path(image["file_name"]).name not in UNUSABLE]
    if not kept:
        raise DatasetError(f"Objects365: {json} has no images for {split}. Is it the published file?")
    parts = parts_on_disk(kept[0]["file_name"], images)
    kept = [{**image, "file_name": "/".join(Path(image["file_name"]).parts[-parts:])} for image in kept]
    ids = {image["id"] for image in kept}
    coco["images"] = kept
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    return coco_format(write_to_cache(f"objects365_{split}", coco), images)


def parts_on_disk(file_name: str, folder: Path) -> int:
    """How many of the last parts of a json's file name lead to the image under a folder.

    Raises:
        DatasetError: none does.
    """
    for parts in (len(Path(file_name).parts), 2, 1):
        if is_file(folder.joinpath(*Path(file_name).parts[-parts:])):
            return parts
    raise DatasetError(f"Objects365: {file_name} is not under {folder}, and neither are its last one or two parts.")


def iterations(epochs: float, datasets: Sequence[str], batch_size: int) -> int:
    """Iterations in which a model sees each image of several registered datasets ``epochs`` times."""
    images = sum(MetadataCatalog.get(name).num_images for name in datasets)
    return max(1, math.ceil(epochs * images / batch_size))
