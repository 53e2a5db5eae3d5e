# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of videos and webcams with OpenCV, which is an optional dependency."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from dino_d2.errors import UserError

if TYPE_CHECKING:
    import cv2


def opencv() -> ModuleType:
    """The module cv2.

    Raises:
        UserError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "videos and webcams need OpenCV: pip install opencv-python-headless (or, in this folder, "
            "pip install -e '.[video]')"
        ) from error
    return cv2


class VideoReader:
    """Frames of a video file or a webcam, uint8 [H, W, 3] in BGR order.

    Args:
        source: path of the file, or number of the webcam.

    Raises:
        UserError: the source cannot be opened, or OpenCV is not installed.
    """

    def __init__(self, source: Path | int):
        cv2 = opencv()
        self.live = isinstance(source, int)
        self.capture = cv2.VideoCapture(source if self.live else str(source))
        if not self.capture.isOpened():
            what = f"webcam {source}" if self.live else f"video {source}"
            raise UserError(f"{what} cannot be opened. Check that it exists and has a format that OpenCV reads")
        self.frames_per_second = 10.0 if self.live else self.capture.get(cv2.CAP_PROP_FPS) or 25.0
        self.length = None if self.live else int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            there, frame = self.capture.read()
            if not there:
                self.capture.release()
                return
            yield frame


class VideoWriter:
    """An MP4 file with the size of its first frame.

    Args:
        path: the file to write.
        frames_per_second: frame rate of the file.
        live: frames arrive at the speed of the detector, and are repeated or skipped so that the video keeps real time.
    """

    def __init__(self, path: Path, frames_per_second: float, live: bool = False):
        self.path, self.frames_per_second, self.live = path, frames_per_second, live
        self.writer: cv2.VideoWriter | None = None
        self.written, self.start = 0, time.monotonic()

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, uint8 [H, W, 3] in BGR order.

        Raises:
            UserError: the file cannot be written.
        """
        if self.writer is None:
            cv2 = opencv()
            size = frame.shape[1], frame.shape[0]
            codec = cv2.VideoWriter_fourcc(*"mp4v")  # available in every build of OpenCV
            self.writer = cv2.VideoWriter(str(self.path), codec, self.frames_per_second, size)
            if not self.writer.isOpened():
                raise UserError(f"{self.path} cannot be written")
        due = (time.monotonic() - self.start) * self.frames_per_second if self.live else self.written + 1
        while self.written < due:
            self.writer.write(frame)
            self.written += 1

    def close(self) -> None:
        if self.writer is not None:
            self.writer.release()
