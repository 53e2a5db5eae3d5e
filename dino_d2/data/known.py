# SPDX-License-Identifier: Apache-2.0
"""Mappers and datasets for evaluations in which some objects or the classes of an image are known."""

import json as json_module
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from dino_d2.data.coco_format import coco_format, write_to_cache
from dino_d2.data.mapper import DetrDatasetMapper
from dino_d2.detectron2.data import MetadataCatalog
from dino_d2.detectron2.utils.file_io import PathManager


class KnownObjectsMapper(DetrDatasetMapper):
    """Adds the known objects to the model's input as "known_objects" ("AP(Cond)" of DN-DETR Table 3).

    Args:
        known: labels [n] -> [n] bool, True for known objects; must be the rule of the training.
        kwargs: arguments of :class:`DetrDatasetMapper`.
    """

    def __init__(self, known: Callable[[Tensor], Tensor], **kwargs: Any):
        super().__init__(**kwargs)
        self.known = known

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        mapped = super().__call__(dataset_dict)
        instances = mapped["instances"]
        return {**mapped, "known_objects": instances[self.known(instances.gt_classes)]}


class KnownLabelsMapper(DetrDatasetMapper):
    """Adds the classes in the image to the model's input as "known_labels" (DN-DETR Table 4)."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        mapped = super().__call__(dataset_dict)
        return {**mapped, "known_labels": mapped["instances"].gt_classes.unique().tolist()}


def only_classes(dataset: str, classes: Sequence[int]) -> str:
    """A copy of a dataset with only the objects of some classes. In an evaluation, all other classes have no AP.

    Args:
        dataset: name of a registered dataset in COCO format.
        classes: class indices of the model.

    Returns:
        the name of the new dataset, which has the same images and categories.
    """
    metadata = MetadataCatalog.get(dataset)
    with PathManager.open(metadata.json_file) as file:
        coco = json_module.load(file)
    if "thing_dataset_id_to_contiguous_id" in vars(metadata):
        numbers = metadata.thing_dataset_id_to_contiguous_id
    else:  # Detectron2 sets this only when it reads the dataset
        numbers = {category: i for i, category in enumerate(sorted(c["id"] for c in coco["categories"]))}
    kept = set(classes)
    coco["annotations"] = [a for a in coco["annotations"] if numbers[a["category_id"]] in kept]
    return coco_format(write_to_cache("only_classes", coco), metadata.image_root)
