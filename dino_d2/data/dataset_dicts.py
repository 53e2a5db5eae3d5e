# SPDX-License-Identifier: Apache-2.0
"""The dataset dicts of registered datasets; those of large datasets are made when they are asked for."""

import bisect
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import table_dicts_of
from dino_d2.data.table.annotation_table import TableDicts
from dino_d2.detectron2.data import DatasetFromList, MetadataCatalog, get_detection_dataset_dicts
from dino_d2.detectron2.data.detection_utils import check_metadata_consistency

logger = logging.getLogger(__name__)


class JoinedDicts(Sequence[dict[str, Any]]):
    """The dataset dicts of several datasets, one after the other."""

    def __init__(self, parts: Sequence[Any]):
        self.parts = parts
        self.ends = list(itertools.accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        part = bisect.bisect_right(self.ends, place)
        return self.parts[part][place - self.ends[part] + len(self.parts[part])]


#: What `dataset_dicts` returns.
DatasetDicts = list[dict[str, Any]] | TableDicts | JoinedDicts


def dataset_dicts(names: str | Sequence[str], filter_empty: bool = True, check_consistency: bool = True) -> Any:
    """As Detectron2's `get_detection_dataset_dicts`, which would make and keep the dicts of large datasets all at once.

    Args:
        names: one or more names in the `DatasetCatalog`.
        filter_empty: whether to leave out images without objects.
        check_consistency: whether to check that all datasets have the same classes.

    Returns:
        `DatasetDicts`; or a torch dataset where one is registered.
    """
    names = [names] if isinstance(names, str) else list(names)
    tables = [table_dicts_of(name) for name in names]
    if not any(tables):
        return get_detection_dataset_dicts(names, filter_empty=filter_empty, check_consistency=check_consistency)
    if check_consistency:
        check_metadata_consistency("thing_classes", names)
    parts: list[Any] = [
        get_detection_dataset_dicts(name, filter_empty=filter_empty, check_consistency=False)
        if table is None
        else table.with_objects()
        if filter_empty
        else table
        for name, table in zip(names, tables, strict=True)
    ]
    for name, part in zip(names, parts, strict=True):
        classes = len(MetadataCatalog.get(name).thing_classes)
        logger.info("Dataset %s: %d images, %d classes", name, len(part), classes)
    joined = parts[0] if len(parts) == 1 else JoinedDicts(parts)
    if not joined:
        raise DatasetError(f"No image in {', '.join(names)} has an object that is no crowd.")
    return joined


def wider_than_high(dataset: DatasetDicts) -> np.ndarray:
    """Which images are wider than high, bool [images].

    Raises:
        DatasetError: an image has no width or height.
    """
    if isinstance(dataset, TableDicts):
        return dataset.are_wide()
    if isinstance(dataset, JoinedDicts):
        return np.concatenate([wider_than_high(part) for part in dataset.parts])
    for image in dataset:
        if "width" not in image or "height" not in image:
            raise DatasetError(
                f"Image id {image.get('image_id', 'unknown')} ({image.get('file_name', 'no file name')}) has no width "
                "or height, which dataloader.train.aspect_ratio_grouping needs. Add them, or set it to False."
            )
    return np.array([image["width"] > image["height"] for image in dataset], bool)


def shared_by_workers(dataset: DatasetDicts) -> Any:
    """The same by index, in memory that worker processes share instead of copying."""
    if isinstance(dataset, TableDicts):
        return dataset
    if isinstance(dataset, JoinedDicts):
        return JoinedDicts([shared_by_workers(part) for part in dataset.parts])
    return DatasetFromList(dataset, copy=False)
