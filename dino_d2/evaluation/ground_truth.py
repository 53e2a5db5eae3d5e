# SPDX-License-Identifier: Apache-2.0
"""The ground truth of a whole dataset as arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dino_d2.data.check import normalise, parse


@dataclass(frozen=True)
class GroundTruth:
    """Images, classes and the M objects of a dataset. Images and classes are in the order of their ids.

    Attributes:
        source: the json, for messages.
        image_ids, file_names: of the images, as in the json.
        category_ids, class_names: of the classes.
        image: [M] int64 index of the object's image.
        label: [M] int64 index of its class.
        boxes: [M, 4] float64 xywh in pixels.
        area: [M] float64 in square pixels; COCO's field, which can be the area of a mask.
        is_crowd: [M] bool; crowd regions are neither found nor missed.
    """

    source: Path
    image_ids: list[int | str]
    file_names: list[str]
    category_ids: list[int | str]
    class_names: list[str]
    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    is_crowd: np.ndarray


def read_ground_truth(json: Path, say: Callable[[str], object]) -> GroundTruth:
    """Read a COCO json. Annotations that cannot be used are left out, as in training and evaluation.

    Args:
        json: a file in COCO format.
        say: receives a sentence about each kind of annotation that is left out or corrected.

    Raises:
        DatasetError: the file is missing or is not in COCO format.
    """
    normalised = normalise(parse(json), json)
    coco = normalised.coco
    for finding in normalised.findings:
        say(f"{json}: {finding}")
    images = sorted(coco["images"], key=lambda image: image["id"])
    categories = sorted(coco["categories"], key=lambda category: category["id"])
    index_of_image = {image["id"]: i for i, image in enumerate(images)}
    index_of_class = {category["id"]: k for k, category in enumerate(categories)}
    usable = [a for a in coco["annotations"] if a["image_id"] in index_of_image and a["category_id"] in index_of_class]
    if stray := len(coco["annotations"]) - len(usable):
        say(f"{json}: {stray} annotations are left out, because their image_id or category_id is not in the file")
    return GroundTruth(
        source=json,
        image_ids=[image["id"] for image in images],
        file_names=[image["file_name"] for image in images],
        category_ids=[category["id"] for category in categories],
        class_names=[category["name"] for category in categories],
        image=np.array([index_of_image[a["image_id"]] for a in usable], np.int64),
        label=np.array([index_of_class[a["category_id"]] for a in usable], np.int64),
        boxes=np.array([a["bbox"] for a in usable], np.float64).reshape(-1, 4),
        area=np.array([a["area"] for a in usable], np.float64),
        is_crowd=np.array([a["iscrowd"] for a in usable], bool),
    )
