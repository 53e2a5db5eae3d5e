# SPDX-License-Identifier: Apache-2.0
"""Checks of a dataset that is registered by a function in Detectron2's `DatasetCatalog`, without a json file."""

from typing import Any

from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.structures import BoxMode

from .fields import DatasetError

_BOX_MODES = (BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)


def check_registered(name: str, evaluated: bool) -> None:
    """Check the dataset dicts that the registered function returns.

    Args:
        name: in the `DatasetCatalog`.
        evaluated: whether it is a test set, which needs class names, image sizes, unique image ids and objects.

    Raises:
        DatasetError: the dataset cannot be used for this; the message names the image, the annotation and the key.
    """
    dataset_dicts: Any = DatasetCatalog.get(name)
    if not isinstance(dataset_dicts, list):
        return  # a torch dataset, whose elements may be costly
    if not dataset_dicts:
        raise DatasetError(f"dataset {name}: the registered function returns no images")
    classes = MetadataCatalog.get(name).get("thing_classes")
    if evaluated and classes is None:
        raise DatasetError(
            f"dataset {name}: its classes have no names, which the evaluation needs. Set "
            f'MetadataCatalog.get("{name}").thing_classes = ["...", ...] where the dataset is registered'
        )
    needed = ("file_name", "height", "width", "image_id") if evaluated else ("file_name",)
    image_ids: dict[Any, int] = {}
    for number, image in enumerate(dataset_dicts):
        if not isinstance(image, dict):
            raise DatasetError(
                f"dataset {name}: image number {number} is a {type(image).__name__}; the registered function must "
                "return a list of dicts"
            )
        where = f"dataset {name}, image number {number} ({image.get('file_name', 'no file name')})"
        missing = [key for key in needed if key not in image]
        if missing:
            raise DatasetError(f"{where}: has no {', '.join(missing)}. The registered function must give it")
        if evaluated and not isinstance(image["image_id"], int | str):
            raise DatasetError(f"{where}: image_id={image['image_id']!r} must be a number or a text")
        if evaluated and image_ids.setdefault(image["image_id"], number) != number:
            raise DatasetError(
                f"{where}: has the image_id {image['image_id']!r} of image number {image_ids[image['image_id']]}. Each "
                "image must have its own"
            )
        for index, annotation in enumerate(image.get("annotations", [])):
            _check_annotation(annotation, f"{where}, annotation {index}", classes)
    if evaluated and not any(image.get("annotations") for image in dataset_dicts):
        raise DatasetError(f"dataset {name}: no image has annotations, so there is nothing to evaluate with")


def _check_annotation(annotation: dict[str, Any], where: str, classes: list[str] | None) -> None:
    missing = [key for key in ("bbox", "bbox_mode", "category_id") if key not in annotation]
    if missing:
        raise DatasetError(f"{where}: has no {', '.join(missing)}. The registered function must give it")
    if not hasattr(annotation["bbox"], "__len__") or len(annotation["bbox"]) != 4:
        raise DatasetError(f"{where}: bbox={annotation['bbox']} must be 4 numbers")
    if annotation["bbox_mode"] not in _BOX_MODES:
        raise DatasetError(
            f"{where}: bbox_mode={annotation['bbox_mode']!r} must be BoxMode.XYXY_ABS or BoxMode.XYWH_ABS"
        )
    category = annotation["category_id"]
    if classes is not None and category not in range(len(classes)):
        raise DatasetError(
            f"{where}: category_id={category!r}, but its {len(classes)} classes are numbered 0 to {len(classes) - 1}"
        )
