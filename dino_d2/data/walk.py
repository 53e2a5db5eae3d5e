# SPDX-License-Identifier: Apache-2.0
"""Looking for files by names that may be anything."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def files_below(folder: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """The files with one of these suffixes (in small letters, with their dot), sorted by folder and name.

    Links to folders are followed, which `Path.rglob` does not do, and each folder is entered once, so that a link to a
    folder above makes no endless walk. Files that macOS adds to archives (`._name`, `__MACOSX`) are passed over.
    """
    seen = set()
    for where, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name != "__MACOSX")
        for name in sorted(names):
            if not name.startswith("._") and os.path.splitext(name)[1].lower() in suffixes:
                yield Path(where, name)


def is_file(path: Path) -> bool:
    """As `Path.is_file`, and False for names that no file can have: too long, or with a NUL."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
