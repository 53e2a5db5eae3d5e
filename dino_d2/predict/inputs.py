# SPDX-License-Identifier: Apache-2.0
"""Files and webcams that `--input` names: pictures, videos, folders, glob patterns."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dino_d2.data.walk import files_below
from dino_d2.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
WEBCAM = re.compile(r"webcam(?::(\d+))?")


@dataclass(frozen=True)
class Input:
    """A picture, a video or a webcam."""

    path: Path | None  # None for a webcam
    is_video: bool
    camera: int = 0  # number of the webcam
    root: Path | None = None  # the folder that --recursive searched

    @property
    def name(self) -> str:
        """The file name, with the folders below ``root`` where there is one, separated by slashes."""
        if self.path is None:
            return f"webcam{self.camera}"
        return self.path.relative_to(self.root).as_posix() if self.root else self.path.name


def gather(words: Sequence[str], recursive: bool = False, output: Path | None = None) -> list[Input]:
    """Find the pictures, videos and webcams that command-line arguments name.

    Args:
        words: paths of files and folders, glob patterns, "webcam" or "webcam:N".
        recursive: search the folders inside folders too.
        output: a folder that a recursive search leaves out, such as that of an earlier run's pictures.

    Returns:
        inputs in the order of the arguments; files of a folder are sorted by name.

    Raises:
        UserError: a path does not exist, or a folder has neither pictures nor videos.
    """
    inputs: list[Input] = []
    for word in words:
        camera = WEBCAM.fullmatch(word)
        if camera and not os.path.exists(word):
            inputs.append(Input(None, is_video=True, camera=int(camera[1] or 0)))
            continue
        path = Path(word).expanduser()
        root = path if recursive and path.is_dir() else None
        found = [path]
        if path.is_dir():
            found = _below(path, output) if recursive else _in_folder(path)
        if not path.exists():  # a quoted pattern, or a shell that does not expand patterns
            found = [Path(name) for name in sorted(glob.glob(str(path)))]
        if not found:
            what = "contains neither pictures nor videos" if path.is_dir() else "does not exist"
            raise UserError(f"--input {word} {what} (looked from {Path.cwd()})")
        inputs += [Input(file, _is_video(file), root=root) for file in found]
    return inputs


def _in_folder(folder: Path) -> list[Path]:
    known = Image.registered_extensions()
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in known or _is_video(file))


def _below(folder: Path, output: Path | None) -> list[Path]:
    files = files_below(folder, (*Image.registered_extensions(), *VIDEO_SUFFIXES))
    left_out = output.resolve() if output else None
    return [file for file in files if left_out is None or left_out not in file.resolve().parents]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES
