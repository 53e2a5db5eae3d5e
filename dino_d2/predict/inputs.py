"""What `--input` names: pictures, folders of them, glob patterns, videos and webcams."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dino_d2.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
WEBCAM = re.compile(r"webcam(?::(\d+))?")


@dataclass(frozen=True)
class Input:
    """One picture or one video."""

    path: Path | None  # None: the webcam of this number
    is_video: bool
    camera: int = 0

    @property
    def name(self) -> str:
        return self.path.name if self.path else f"webcam{self.camera}"


def gather(words: Sequence[str]) -> list[Input]:
    """The pictures and videos that the words of a command line name, in their order; those of a folder by name.

    Raises:
        UserError: nothing is there.
    """
    inputs: list[Input] = []
    for word in words:
        camera = WEBCAM.fullmatch(word)
        if camera and not os.path.exists(word):
            inputs.append(Input(None, is_video=True, camera=int(camera[1] or 0)))
            continue
        path = Path(word).expanduser()
        found = _in_folder(path) if path.is_dir() else [path]
        if not path.exists():  # a pattern in quotes, or in a shell that leaves patterns to the program
            found = [Path(name) for name in sorted(glob.glob(str(path)))]
        if not found:
            what = "has neither pictures nor videos in it" if path.is_dir() else "does not exist"
            raise UserError(f"--input {word} {what} (looked from {Path.cwd()})")
        inputs += [Input(file, _is_video(file)) for file in found]
    return inputs


def _in_folder(folder: Path) -> list[Path]:
    known = Image.registered_extensions()
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in known or _is_video(file))


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES
