# SPDX-License-Identifier: Apache-2.0
"""COCO jsons that have no split yet: one for all images, or several parts."""

from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.data.check.fields import KINDS
from dino_d2.data.check.structure import read_normalised
from dino_d2.data.folders import find_images
from dino_d2.data.walk import files_below

from .dataset import AnnotatedImage, Box, Dataset, check_classes
from .images import split_of_label_file
from .json_text import holds

#: Fields of an annotation that are computed again.
_REWRITTEN = ("id", "image_id", "category_id", "bbox", "iscrowd")


def is_coco(root: Path) -> bool:
    return bool(_jsons(root))


def read_coco_without_splits(root: Path, classes: list[str] | None = None) -> Dataset:
    """Read every COCO json below a folder. Masks and all other fields of an annotation are kept.

    Args:
        root: a folder with jsons and images.
        classes: names in order; those of the jsons, in their order, if not given.

    Raises:
        DatasetError: the folder has no COCO json, or one for training and one for validation, which need no
            conversion; or one cannot be used.
    """
    files = _jsons(root)
    if not files:
        raise DatasetError(f"{root}: no COCO json with images, annotations and categories below it.")
    splits = {file: split_of_label_file(file, root) for file in files}
    if {"train", "val"} <= set(splits.values()):
        raise DatasetError(
            f"{root} has COCO jsons for training and validation, which need no conversion. Train with data.root={root}."
        )
    dataset = Dataset()
    for file, split in splits.items():
        folder = find_images(file, root, split or "train")
        normalised = read_normalised(file, folder)
        coco = normalised.coco
        names = {category["id"]: category["name"] for category in coco["categories"]}
        dataset.classes += [name for name in names.values() if name not in dataset.classes]
        dataset.notes += [str(finding) for finding in normalised.findings]
        boxes: dict[int, list[Box]] = {image["id"]: [] for image in coco["images"]}
        for annotation in coco["annotations"]:
            others = {key: value for key, value in annotation.items() if key not in _REWRITTEN}
            box = Box(names[annotation["category_id"]], annotation["bbox"], bool(annotation["iscrowd"]), others)
            boxes[annotation["image_id"]].append(box)
        dataset.splits.setdefault(split, []).extend(
            AnnotatedImage(folder / image["file_name"], image["width"], image["height"], tuple(boxes[image["id"]]))
            for image in coco["images"]
        )
    if classes:
        dataset.name_classes(classes, str(root))
    check_classes(dataset.classes, str(root))
    return dataset


def _jsons(root: Path) -> list[Path]:
    return [file for file in files_below(root, (".json",)) if holds(file, dict.fromkeys(KINDS, list))]
