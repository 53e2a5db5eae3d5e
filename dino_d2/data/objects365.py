# SPDX-License-Identifier: Apache-2.0
"""Objects365 as DINO pre-trains on it: the first 5000 validation images validate, the others join the training set.

Looked for in ``$DETECTRON2_DATASETS/objects365`` (``./datasets/objects365`` if the variable is not set):

    annotations/zhiyuan_objv2_train.json   annotations/zhiyuan_objv2_val.json      (version 2, as published)
    train/...                              val/...

The images lie under their folder with the path that the json gives ("images/v1/patch8/x.jpg"), or with the last one
or two parts of it ("patch8/x.jpg", "x.jpg"), as people unpack them. Six training images that nobody can use are left
out, see `UNUSABLE`.
"""

import hashlib
import math
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from dino_d2.data.check import DatasetError, normalise, parse
from dino_d2.data.coco_format import Source, coco_format, register_table, warn_of_corrections, write_to_cache
from dino_d2.data.table.annotation_table import Table, TableDicts
from dino_d2.data.table.cache import table_of
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
    if table := table_of(json):
        return _register_table(split, table, images, validation_images)
    normalised = normalise(parse(json), json)
    coco = normalised.coco
    warn_of_corrections(json, normalised.skipped, normalised.corrected, len(coco["annotations"]))
    if split != "train":
        part = slice(validation_images) if split == "val" else slice(validation_images, None)
        coco["images"] = coco["images"][part]  # before any is left out: the first 5000 of the published file
    kept = [image for image in coco["images"] if Path(image["file_name"]).name not in UNUSABLE]
    if not kept:
        raise _no_images(json, split)
    parts = parts_on_disk(kept[0]["file_name"], images)
    kept = [{**image, "file_name": "/".join(Path(image["file_name"]).parts[-parts:])} for image in kept]
    ids = {image["id"] for image in kept}
    coco["images"] = kept
    coco["annotations"] = [a for a in coco["annotations"] if a["image_id"] in ids]
    return coco_format(write_to_cache(f"objects365_{split}", coco), images)


def _register_table(split: str, table: Table, images: Path, validation_images: int) -> str:
    rows = np.arange(len(table.image_ids))
    if split != "train":
        first = table.positions < validation_images  # before any is left out: the first 5000 of the published file
        rows = rows[first if split == "val" else ~first]
    names = TableDicts(table, os.fspath(images), rows, file_name_parts=1).file_names()
    rows = rows[[name not in UNUSABLE for name in names]]
    if not len(rows):
        raise _no_images(table.json, split)
    parts = parts_on_disk(table.file_name(rows[table.positions[rows].argmin()]), images)
    source = Source(table.json, images, images)
    name = f"coco_objects365_{split}_{hashlib.sha256(f'{source} {validation_images}'.encode()).hexdigest()[:8]}"
    register_table(name, source, TableDicts(table, os.fspath(images), rows, parts))
    return name


def _no_images(json: Path, split: str) -> DatasetError:
    return DatasetError(f"Objects365: {json} has no images for {split}. Is it the published file?")


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
