# SPDX-License-Identifier: Apache-2.0
"""Logs in Detectron2's format, as in `detectron2.utils.logger`.

All modules of this engine log under the name `detectron2.<module>`, so that one `setup_logger()` configures them and
tools that read Detectron2's logs can read theirs.
"""

import atexit
import functools
import logging
import os
import sys
from collections.abc import Mapping
from typing import IO, Any

from tabulate import tabulate
from termcolor import colored

from .file_io import PathManager


class _ColourFormatter(logging.Formatter):
    def __init__(self, root: str, abbreviation: str) -> None:
        prefix = colored("[%(asctime)s %(name)s]: ", "green")
        super().__init__(f"{prefix}%(message)s", datefmt="%m/%d %H:%M:%S")
        self._root, self._short = f"{root}.", f"{abbreviation}." if abbreviation else ""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.name = record.name.replace(self._root, self._short)
        line = super().formatMessage(record)
        if record.levelno == logging.WARNING:
            return f"{colored('WARNING', 'red', attrs=['blink'])} {line}"
        if record.levelno >= logging.ERROR:
            return f"{colored('ERROR', 'red', attrs=['blink', 'underline'])} {line}"
        return line


@functools.lru_cache  # a second call must not add handlers, which would repeat every line
def setup_logger(
    output: str | None = None,
    distributed_rank: int = 0,
    *,
    color: bool = True,
    name: str = "detectron2",
    abbrev_name: str | None = None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
) -> logging.Logger:
    """Send the log of `name` to standard output (on rank 0) and to a file per rank.

    Args:
        output: a file ending in .txt or .log, or a folder for `log.txt`, or None for no file.
        distributed_rank: ranks above 0 log only to their file, with `.rank<r>` appended to its name.
        color: whether to colour standard output.
        name: name of the logger to configure.
        abbrev_name: printed instead of `name`; by default `d2` for detectron2, otherwise `name`.
        enable_propagation: whether the loggers above `name` also get its records.
        configure_stdout: whether rank 0 logs to standard output.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if abbrev_name is None:
        abbrev_name = "d2" if name == "detectron2" else name
    plain = logging.Formatter("[%(asctime)s] %(name)s %(levelname)s: %(message)s", datefmt="%m/%d %H:%M:%S")

    if configure_stdout and distributed_rank == 0:
        console = logging.StreamHandler(sys.stdout)
        console.setFormatter(_ColourFormatter(name, abbrev_name) if color else plain)
        logger.addHandler(console)
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        if distributed_rank > 0:
            path = f"{path}.rank{distributed_rank}"
        PathManager.mkdirs(os.path.dirname(path))
        file_handler = logging.StreamHandler(_open_once(path))
        file_handler.setFormatter(plain)
        logger.addHandler(file_handler)
    return logger


@functools.cache  # several loggers write to one file
def _open_once(path: str) -> IO[str]:
    stream = PathManager.open(path, "a", encoding="utf-8")
    atexit.register(stream.close)
    return stream


def create_small_table(small_dict: Mapping[str, Any]) -> str:
    """A table with the keys as headers and one row with the values."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )
