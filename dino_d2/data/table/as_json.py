# SPDX-License-Identifier: Apache-2.0
"""A table as a COCO json, for evaluators: written when one asks Detectron2's `PathManager` for it."""

import hashlib
import json as json_module
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from iopath.common.file_io import PathHandler, get_cache_dir

from dino_d2.detectron2.utils.file_io import PathManager
from dino_d2.files import write_atomically

from .annotation_table import TableDicts

_PREFIX = "dino_d2_table://"
#: Rows that are written at a time.
_BLOCK = 2**14

_registered: dict[str, TableDicts] = {}


def json_of(name: str, dicts: TableDicts) -> str:
    """A path for `PathManager` to a json of a dataset's images, with the annotations that can be used."""
    uri = f"{_PREFIX}{name}.json"
    _registered[uri] = dicts
    return uri


def write_json(dicts: TableDicts, file: BinaryIO) -> None:
    """Write the images of a table with what an evaluation reads of their annotations, in blocks."""
    table, rows = dicts.table, dicts.rows
    file.write(b'{"categories": ' + json_module.dumps(table.categories).encode() + b', "images": [')
    _write_entries(file, (list(dicts.images[k : k + _BLOCK]) for k in range(0, len(rows), _BLOCK)))
    file.write(b'], "annotations": [')
    _write_entries(file, (_annotations(dicts, rows[k : k + _BLOCK].tolist()) for k in range(0, len(rows), _BLOCK)))
    file.write(b"]}")


def _write_entries(file: BinaryIO, blocks: Iterable[list[dict]]) -> None:
    is_first = True
    for block in filter(None, blocks):
        file.write(b"" if is_first else b", ")
        file.write(json_module.dumps(block)[1:-1].encode())
        is_first = False


def _annotations(dicts: TableDicts, rows: list[int]) -> list[dict[str, Any]]:
    return [annotation for row in rows for annotation in _of_image(dicts, row)]


def _of_image(dicts: TableDicts, row: int) -> Iterator[dict[str, Any]]:
    table = dicts.table
    begin, end = table.annotation_ends[row : row + 2].tolist()
    for k in range(begin, end):
        yield {
            "id": int(table.annotation_ids[k]),
            "image_id": int(table.image_ids[row]),
            "category_id": table.categories[table.classes[k]]["id"],
            "bbox": table.bbox[k].tolist(),
            "area": float(table.areas[k]),
            "iscrowd": int(table.is_crowd[k]),
        }


class _Handler(PathHandler):
    """Writes the json of a table into iopath's cache folder, under a name made from what is in it."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        dicts = _registered[path]
        key = hashlib.sha256(f"{dicts.table.digest} {dicts.file_name_parts}".encode() + dicts.rows.tobytes())
        folder = Path(get_cache_dir()) / "dino_d2"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{path[len(_PREFIX) : -len('.json')]}-{key.hexdigest()[:16]}.json"
        if force or not file.exists():
            write_atomically(file, lambda opened: write_json(dicts, opened))
        return os.fspath(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> IO[Any]:
        return open(self._get_local_path(path), mode, buffering, **kwargs)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return path in _registered

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return path in _registered


PathManager.register_handler(_Handler())
