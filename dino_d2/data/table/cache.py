# SPDX-License-Identifier: Apache-2.0
"""Finds or makes the table of a large json: one process of a machine reads the json, the others wait for it."""

import contextlib
import fcntl
import hashlib
import json as json_module
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from iopath.common.file_io import get_cache_dir

from .annotation_table import COLUMNS, DESCRIPTION, Table, open_table
from .plain_entries import msgspec
from .reader import NotServed, read_table

logger = logging.getLogger(__name__)

#: Jsons of so many bytes get a table. Reading a smaller one takes some seconds.
LARGE_JSON = 100 * 2**20

#: To be raised with each change of what a table holds.
FORMAT = 1
#: Describes the files of a table and the json that it was made from.
_SEAL = "complete.json"
_BLOCK = 2**22

_opened: dict[Path, tuple[dict, Table | None]] = {}  # json -> what was sealed, its table


def table_of(json: Path) -> Table | None:
    """The table of a json, from the cache where it is there; None for small jsons and those that tables cannot hold.

    The cache is the folder ``dino_d2/tables`` in iopath's cache folder ($FVCORE_CACHE, or ~/.torch/iopath_cache). A
    table belongs to the path, the size and the time of change of its json, and is made again if any of them, or the
    content of the table, has changed.

    Raises:
        DatasetError: the dataset cannot be used, see `dino_d2.data.check.read_coco`.
    """
    if not json.is_file() or json.stat().st_size < LARGE_JSON:
        return None
    source = _source(json)
    if json in _opened and _opened[json][0] == source:
        return _opened[json][1]
    folder = _folder(json)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock"), json):
        table = open_table(folder) if _is_complete(folder, source) else _make(json, source, folder)
    _opened[json] = source, table
    return table


def _make(json: Path, source: dict, folder: Path) -> Table | None:
    with open(json, "rb") as file:
        if not file.read(64).lstrip().startswith(b"{"):  # UTF-16, a byte order mark, or no COCO json
            return None
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    logger.info("%s: reading %.1f GB; later runs read %s instead", json, source["size"] / 1e9, folder)
    if msgspec is None:
        logger.warning("%s is read several times as fast with the package msgspec: pip install msgspec", json)
    try:
        read_table(json, part)
        seal = {"source": source, "files": {path.name: _checksum(path) for path in sorted(part.iterdir())}}
        (part / _SEAL).write_text(json_module.dumps(seal), encoding="utf-8")
        for path in part.iterdir():
            _sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except NotServed:
        logger.info("%s has masks, keypoints or ids that are text, and is read without a table", json)
        return None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return open_table(folder)


def _folder(json: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(json)).hexdigest()[:16]
    return Path(get_cache_dir()) / "dino_d2" / "tables" / f"{json.stem[:80]}-{digest}"


def _source(json: Path) -> dict[str, Any]:
    """What a table is valid for."""
    stat = json.stat()
    return {"format": FORMAT, "json": os.fspath(json), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def _is_complete(folder: Path, source: dict) -> bool:
    """Whether there is a table of this json whose files are those that were written."""
    try:
        seal = json_module.loads((folder / _SEAL).read_text(encoding="utf-8"))
        if seal["source"] != source:
            return False
        files = {f"{name}.npy" for name in COLUMNS} | {DESCRIPTION}
        if seal["files"].keys() == files and all(_checksum(folder / name) == seal["files"][name] for name in files):
            return True
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    if folder.exists():
        logger.warning("%s is damaged and is made again", folder)
    return False


def _checksum(path: Path) -> int:
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def _locked(path: Path, json: Path) -> Iterator[None]:
    """A lock that one process has at a time, and that is released when the process ends in any way."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Another process is reading %s; waiting for it", json)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
