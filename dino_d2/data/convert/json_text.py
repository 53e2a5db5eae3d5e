# SPDX-License-Identifier: Apache-2.0
"""JSON label files, which may be in one folder with other JSON files."""

from functools import lru_cache
from pathlib import Path

from dino_d2.data.check import DatasetError
from dino_d2.data.check.structure import read_json


def json_object(file: Path) -> dict:
    """The object that a JSON file holds.

    Raises:
        DatasetError: the file cannot be read, is not JSON or holds no object.
    """
    content = _read(file, file.stat().st_mtime_ns)
    if not isinstance(content, dict):
        raise DatasetError(f"{file} holds no JSON object. Delete it, or export it again.")
    return content


def holds(file: Path, keys: dict[str, type]) -> bool:
    """Whether a JSON file holds an object that has these keys, with values of these types."""
    try:
        content = json_object(file)
    except DatasetError:
        return False
    return all(isinstance(content.get(key), kind) for key, kind in keys.items())


@lru_cache(maxsize=2)  # a format is recognised and then read
def _read(file: Path, version: int) -> object:
    return read_json(file)
