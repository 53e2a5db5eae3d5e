# SPDX-License-Identifier: Apache-2.0
"""A normalised dataset as columns, whose checks take the same time per annotation for small and for large datasets."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Columns(NamedTuple):
    """Images, annotations and categories in the order of the json."""

    image_ids: Any
    file_names: Sequence[str]
    widths: np.ndarray  # float64 [images]
    heights: np.ndarray  # float64 [images]
    categories: list[dict[str, Any]]
    ids: Any  # of the annotations: a list, or what gives an array for an array of indices
    images: np.ndarray  # int [M]: indices of the images; -1 for one that is not there
    classes: np.ndarray  # int [M]: indices of `categories`; -1 for one that is not there
    bbox: Any  # float64 [M, 4]: x, y, width, height; an array, or what gives one for a slice or indices
    is_crowd: np.ndarray  # bool [M]

    def ids_of(self, annotations: np.ndarray) -> list:
        """The ids of the annotations for which a mask, bool [M], is true."""
        return taken(self.ids, np.flatnonzero(annotations))

    def image_ids_of(self, images: np.ndarray) -> list:
        """The ids of the images for which a mask, bool [images], is true."""
        return taken(self.image_ids, np.flatnonzero(images))


def taken(ids: Any, indices: np.ndarray) -> list:
    """Some elements of a list or a column, as Python's numbers or text."""
    return [ids[k] for k in indices.tolist()] if isinstance(ids, list) else ids[indices].tolist()


def columns(coco: dict[str, Any]) -> Columns:
    """The columns of a dictionary that `fields.normalise` returns."""
    images, annotations, categories = (coco[key] for key in ("images", "annotations", "categories"))
    rows = {image["id"]: k for k, image in enumerate(images)}
    classes = {category["id"]: k for k, category in enumerate(categories)}
    return Columns(
        [image["id"] for image in images],
        [image["file_name"] for image in images],
        np.array([image["width"] for image in images], np.float64),
        np.array([image["height"] for image in images], np.float64),
        categories,
        [annotation["id"] for annotation in annotations],
        np.array([rows.get(annotation["image_id"], -1) for annotation in annotations], np.int64),
        np.array([classes.get(annotation["category_id"], -1) for annotation in annotations], np.int64),
        np.array([annotation["bbox"] for annotation in annotations], np.float64).reshape(-1, 4),
        np.array([annotation["iscrowd"] for annotation in annotations], bool),
    )
