# SPDX-License-Identifier: Apache-2.0
"""The output folder: holds one run, is locked by one process, and reports errors of its disk."""

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.files import PART

logger = logging.getLogger(__name__)

#: Name of the file that a run has locked while it writes to its output folder.
LOCK = "run.lock"
#: Files of a run, which a folder or a pipe of the same name would stop in the middle.
FILES = (
    LOCK, "config.yaml", "log.txt*", "metrics.json", "last_checkpoint", "model_*.pth", "predictions.png",
    "instances_predictions.pth", "coco_instances_results.json",
)  # fmt: skip
#: Names of the files of predictions that Detectron2's ``COCOEvaluator`` writes.
PREDICTIONS = ("instances_predictions.pth", "coco_instances_results.json")
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: Errors of a file system that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


#: Files from which a run can be continued or evaluated.
_CHECKPOINTS = re.compile(r"model_(\d{7,}|final|best)\.pth|last_checkpoint")


@contextlib.contextmanager
def folder_of_run(given: Path, resume: bool) -> Iterator[Path]:
    """Choose and reserve the output folder of a run, the same on all ranks.

    A run that is resumed, or that is the first one there, writes to ``given``. If that holds another run, the first
    of ``given_2``, ``given_3``, ... without a run is used, so that no run overwrites the weights of another one or
    appends to its metrics. Files that are not of a run do not count and are left alone.

    Args:
        given: ``train.output_dir``.
        resume: continue the run in ``given``.

    Raises:
        UserError: another process writes to the folder, or it cannot be created.
    """
    if not comm.is_main_process():
        yield given if resume else Path(comm.all_gather(None)[0])
    elif resume:
        with reserved(given):
            yield given
    else:
        with _first_without_run(given) as folder:
            comm.all_gather(str(folder))
            yield folder


@contextlib.contextmanager
def _first_without_run(given: Path) -> Iterator[Path]:
    for folder in itertools.chain([given], _numbered(given)):
        with reserved(folder):
            if not holds_run(folder):
                yield folder
                return


def _numbered(folder: Path) -> Iterator[Path]:
    if folder.name in ("", ".."):  # such as the working folder, "."
        folder = folder.resolve()
    for number in itertools.count(2):
        yield folder.parent / f"{folder.name}_{number}"


def later_runs(folder: Path) -> list[Path]:
    """The folders of runs that found another run in ``folder``."""
    return list(itertools.takewhile(holds_run, _numbered(folder)))


def holds_run(folder: Path) -> bool:
    """Whether a training has written checkpoints or metrics there."""
    if not folder.is_dir():
        return False
    metrics = folder / "metrics.json"
    if metrics.is_file() and metrics.stat().st_size:
        return True
    return any(_CHECKPOINTS.fullmatch(path.name) for path in folder.iterdir())


@contextlib.contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep other runs out of an output folder, and delete half-written files of a killed one.

    Only this process holds the lock: it ends with the process, even if the process is killed and its loading processes
    run on for a moment.

    Args:
        folder: created if it does not exist.

    Raises:
        UserError: another run writes to it, or it cannot be created.
    """
    try:
        file = _lock(folder)
    except OSError as error:
        raise in_words(error, folder) or UserError(
            f"train.output_dir={folder} cannot be used: {error.strerror}. Give another one: train.output_dir=FOLDER"
        ) from error
    try:
        for path in folder.glob(f"*{PART}"):
            if path.name.startswith(("model_", "last_checkpoint", "config.yaml")):
                path.unlink()
        yield
    finally:
        if file is not None:
            (folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # the process id, where the disk was full
                file.close()


def check_entries(folder: Path) -> None:
    """
    Raises:
        UserError: a folder, a pipe or a device has the name of a file that a run writes or reads.
    """
    for name in FILES:
        for path in folder.glob(name):
            if path.exists() and not path.is_file():
                raise UserError(
                    f"{path} is not a file, but a run needs a file of that name there. Move it away, or give another "
                    "folder: train.output_dir=FOLDER"
                )


def _lock(folder: Path) -> TextIO | None:
    """The locked file; None if the file system has no locks."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    while True:
        if path.is_symlink():  # the file that it leads to would be emptied
            raise UserError(f"{path} is a link, but a run needs a file of its own there. Delete it")
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 closing it ends the lock
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip()
            file.close()
            if error.errno in _NO_LOCKS:
                logger.warning("%s has no file locks: make sure that no other run writes to it.", folder)
                return None
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            who = f" ({owner})" if owner else ""
            raise UserError(
                f"another run{who} writes to {folder}. Wait for it, stop it, or give this run a "
                "folder of its own: train.output_dir=FOLDER"
            ) from error
        if _is_at(file, path):
            break
        file.close()  # the run before deleted it between our open and our lock
    file.truncate(0)
    with contextlib.suppress(OSError):  # a full disk has no room for the process id, which is only informative
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
    return file


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """
    Raises:
        UserError: in place of an error of a full disk or a vanished output folder.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        words = in_words(error, folder)
        if words is None:
            raise
        raise words from error


@contextlib.contextmanager
def no_half_predictions(folder: Path) -> Iterator[None]:
    """Delete the files of predictions that an evaluation began to write if the disk is full."""
    start = time.time() - 1  # file systems round
    try:
        yield
    except (OSError, RuntimeError) as error:
        if in_words(error, folder) is not None:
            for path in (folder / name for name in PREDICTIONS):
                if path.is_file() and path.stat().st_mtime >= start:
                    path.unlink()
        raise


def in_words(error: BaseException, folder: Path) -> UserError | None:
    """A full disk or a removed output folder as a UserError; None if ``error`` has another cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            if cause.errno in _FULL:
                return UserError(_full(cause, folder))
            if not folder.is_dir():
                return UserError(
                    f"the output folder {folder} no longer exists, so that nothing more can be saved. Was it deleted, "
                    "renamed or unmounted? Bring it back, and continue from its last checkpoint with --resume"
                )
        cause = cause.__cause__ or cause.__context__
    return None


def _full(error: OSError, folder: Path) -> str:
    place = error.filename or folder
    free = f" ({shutil.disk_usage(folder).free / 2**20:.0f} MiB are free now)" if folder.is_dir() else ""
    return (
        f"no space is left for {place}{free}: {os.strerror(error.errno or 0)}. The checkpoints that were written are "
        f"complete. Make room, for example by deleting old checkpoints, and continue with --resume; "
        "train.checkpointer.max_to_keep=1 keeps fewer of them"
    )
