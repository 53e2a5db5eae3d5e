# SPDX-License-Identifier: Apache-2.0
"""The columns of a large dataset in memory-mapped files, and Detectron2's dataset dicts made of them on demand."""

import json as json_module
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from dino_d2.data.check.fields import Finding
from dino_d2.detectron2.structures import BoxMode


class Abridged(Collection):
    """The ids of a long list for a message: their number and the first of them."""

    def __init__(self, count: int, first: list):
        self.count, self.first = count, first

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator:
        return iter(self.first)

    def __contains__(self, value: object) -> bool:
        return value in self.first


class Table(NamedTuple):
    """A normalised dataset. Images are in the order of their ids; annotations in that of their images and the file."""

    json: Path  # that it was made from
    folder: Path  # of the columns
    digest: str  # SHA-256 of the json
    categories: list[dict]  # in the order of their ids
    skipped: dict[str, Collection]  # reason -> ids of the annotations that are left out
    corrected: dict[str, Collection]  # what was replaced -> ids of the annotations
    findings: list[Finding]  # of `check.findings.content_findings`
    image_ids: np.ndarray  # int64 [images]
    widths: np.ndarray  # int32 [images]
    heights: np.ndarray  # int32 [images]
    positions: np.ndarray  # int32 [images]: in the json
    name_bytes: np.ndarray  # uint8: all file names in UTF-8
    name_ends: np.ndarray  # int64 [images + 1]: where in `name_bytes` the name of each image ends, after a 0
    annotation_ends: np.ndarray  # int64 [images + 1]: where among the annotations those of each image end, after a 0
    annotation_ids: np.ndarray  # int64 [M]
    classes: np.ndarray  # int32 [M]: indices of `categories`
    bbox: np.ndarray  # float64 [M, 4]: x, y, width, height
    areas: np.ndarray  # float64 [M]
    is_crowd: np.ndarray  # bool [M]

    def file_name(self, row: int) -> str:
        return self.name_bytes[self.name_ends[row] : self.name_ends[row + 1]].tobytes().decode()

    def __reduce__(self) -> tuple:
        """Another process maps the files of the same columns instead of being sent them."""
        return open_table, (self.folder,)


#: The columns of a table; the other fields are in its description.
COLUMNS = Table._fields[Table._fields.index("image_ids") :]
#: The file of the description.
DESCRIPTION = "table.json"


def open_table(folder: Path) -> Table:
    """Map the columns in a folder that the cache has checked."""
    description = json_module.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    findings = [
        Finding(is_error, what, Abridged(count, first), advice, example)
        for is_error, what, (count, first), advice, example in description["findings"]
    ]
    return Table(
        Path(description["json"]),
        folder,
        description["digest"],
        description["categories"],
        _reasons(description["skipped"]),
        _reasons(description["corrected"]),
        findings,
        **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in COLUMNS},
    )


def _reasons(described: dict[str, tuple[int, list]]) -> dict[str, Collection]:
    return {reason: Abridged(count, first) for reason, (count, first) in described.items()}


class TableImages(Sequence[dict[str, Any]]):
    """The id, file name, width and height of each image of a dataset, as dictionaries."""

    def __init__(self, dicts: "TableDicts"):
        self.dicts = dicts

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return TableImages(self.dicts[index])
        row, table = int(self.dicts.rows[index]), self.dicts.table
        return {
            "id": int(table.image_ids[row]),
            "file_name": self.dicts.file_name(row),
            "width": int(table.widths[row]),
            "height": int(table.heights[row]),
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows, table = self.dicts.rows, self.dicts.table
        columns = (column[rows].tolist() for column in (table.image_ids, table.widths, table.heights))
        for image_id, width, height, name in zip(*columns, self.dicts.file_names(), strict=True):
            yield {"id": image_id, "file_name": name, "width": width, "height": height}


class TableDicts(Sequence[dict[str, Any]]):
    """Detectron2's dataset dicts of a table, each made when it is asked for. As `load_coco_json` gives them.

    Args:
        table: of the annotations.
        image_root: folder that the file names are relative to.
        rows: of the images, int64 [images]; all if not given.
        file_name_parts: how many of the last parts of each file name in the json to use; all if not given.
    """

    def __init__(
        self, table: Table, image_root: str, rows: np.ndarray | None = None, file_name_parts: int | None = None
    ):
        self.table, self.image_root, self.file_name_parts = table, image_root, file_name_parts
        self.rows = np.arange(len(table.image_ids)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "TableDicts": ...
    def __getitem__(self, index: int | slice) -> "dict[str, Any] | TableDicts":
        if isinstance(index, slice):
            return self._of(self.rows[index])
        row = int(self.rows[index])
        table = self.table
        begin, end = table.annotation_ends[row : row + 2].tolist()
        columns = (column[begin:end].tolist() for column in (table.is_crowd, table.bbox, table.classes))
        return {
            "file_name": os.path.join(self.image_root, self.file_name(row)),
            "height": int(table.heights[row]),
            "width": int(table.widths[row]),
            "image_id": int(table.image_ids[row]),
            "annotations": [
                {"iscrowd": int(crowd), "bbox": bbox, "category_id": category, "bbox_mode": BoxMode.XYWH_ABS}
                for crowd, bbox, category in zip(*columns, strict=True)
            ],
        }

    def file_name(self, row: int) -> str:
        """The name of the file of a row of the table, relative to the folder of the images."""
        return self._shortened(self.table.file_name(row))

    def file_names(self) -> Iterator[str]:
        """Those of all images, faster than one by one."""
        text, ends = self.table.name_bytes.tobytes(), self.table.name_ends
        for begin, end in zip(ends[self.rows].tolist(), ends[self.rows + 1].tolist(), strict=True):
            yield self._shortened(text[begin:end].decode())

    def _shortened(self, name: str) -> str:
        return name if self.file_name_parts is None else "/".join(name.split("/")[-self.file_name_parts :])

    @property
    def images(self) -> TableImages:
        return TableImages(self)

    def with_objects(self) -> "TableDicts":
        """The images that have at least one annotation which is no crowd."""
        objects = np.zeros(len(self.table.is_crowd) + 1, np.int32)
        np.cumsum(~self.table.is_crowd, out=objects[1:])
        counts = np.diff(objects[self.table.annotation_ends])
        return self._of(self.rows[counts[self.rows] > 0])

    def are_wide(self) -> np.ndarray:
        """Which images are wider than high, bool [images]."""
        return (self.table.widths > self.table.heights)[self.rows]

    def _of(self, rows: np.ndarray) -> "TableDicts":
        return TableDicts(self.table, self.image_root, rows, self.file_name_parts)
