# SPDX-License-Identifier: Apache-2.0
"""Atomic writing (readers see either the old file or the complete new one), and reading only regular files."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

#: Ending of a file that is still being written.
PART = ".part"


def check_regular(path: str | os.PathLike) -> None:
    """Refuse a pipe, a socket or a device, which may keep its reader waiting forever or never end.

    Raises:
        OSError: ``path`` is one of them, or does not exist.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, a socket or a device, not a file", os.fspath(path))


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file with ``write`` and move it to ``path`` once it is complete, replacing an older one.

    If the process is killed or the power fails, ``path`` is either the old or the new file. After an error, such as a
    full disk, no part of the new file remains.
    """
    part = path.with_name(path.name + PART)
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    # The new name must be on disk before `last_checkpoint` refers to it.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
