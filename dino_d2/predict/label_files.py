# SPDX-License-Identifier: Apache-2.0
"""Detections as label files, which labelling tools open and `dino_d2.data.convert` reads.

Boxes are written in pixels of the image after its EXIF rotation, or as shares of it.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from dino_d2.detectron2.structures import Instances
from dino_d2.errors import UserError
from dino_d2.files import write_atomically

from .inputs import Input


class Label(NamedTuple):
    """A detected object: number and name of its class, score, and corners in pixels."""

    number: int
    name: str
    score: float
    box: tuple[float, float, float, float]  # left, top, right, bottom


class LabelWriter(Protocol):
    """Writes the labels of one picture after another; ``close`` completes the files."""

    def write(self, picture: Input, instances: Instances) -> None: ...
    def close(self) -> None: ...


class YoloWriter:
    """``labels/NAME.txt``, one object a line (class number, centre, width, height), and ``labels/classes.txt``."""

    def __init__(self, output: Path, class_names: Sequence[str]):
        self.folder, self.class_names = output / "labels", class_names
        _write(self.folder / "classes.txt", "".join(f"{name}\n" for name in class_names))

    def write(self, picture: Input, instances: Instances) -> None:
        height, width = instances.image_size
        lines = []
        for number, _, _, (left, top, right, bottom) in _labels(instances, self.class_names):
            shares = (left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width
            lines.append(" ".join([str(number), *(f"{share:.6f}" for share in (*shares, (bottom - top) / height))]))
        _write(self.folder / _with_suffix(picture.name, ".txt"), "".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        """All files are complete already."""


class LabelMeWriter:
    """``labels/NAME.json`` with rectangles; ``imagePath`` leads from there to the picture, so that LabelMe opens it."""

    def __init__(self, output: Path, class_names: Sequence[str]):
        self.folder, self.class_names = output / "labels", class_names

    def write(self, picture: Input, instances: Instances) -> None:
        assert picture.path is not None  # only a webcam has none
        file = self.folder / _with_suffix(picture.name, ".json")
        height, width = instances.image_size
        content: dict[str, object] = {
            "version": "5.5.0",  # of the format; LabelMe asks for it
            "flags": {},
            "shapes": [
                {
                    "label": label.name,
                    "points": [[round(x, 2) for x in label.box[:2]], [round(x, 2) for x in label.box[2:]]],
                    "group_id": None,
                    "description": "",
                    "shape_type": "rectangle",
                    "flags": {},
                    "score": round(label.score, 4),
                }
                for label in _labels(instances, self.class_names)
            ],
            "imagePath": Path(os.path.relpath(picture.path, file.parent)).as_posix(),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        _write(file, json.dumps(content, indent=2))

    def close(self) -> None:
        """All files are complete already."""


class CsvWriter:
    """``labels.csv``, one object a row; a picture without objects has a row without a class and corners."""

    HEADER = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax", "score")

    def __init__(self, output: Path, class_names: Sequence[str]):
        self.file, self.class_names = output / "labels.csv", class_names
        self.rows: list[Sequence[object]] = [self.HEADER]

    def write(self, picture: Input, instances: Instances) -> None:
        height, width = instances.image_size
        image = (picture.name, width, height)
        objects = [
            (*image, label.name, *(f"{x:.2f}" for x in label.box), f"{label.score:.4f}")
            for label in _labels(instances, self.class_names)
        ]
        self.rows += objects or [(*image, *[""] * 6)]

    def close(self) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(self.rows)
        _write(self.file, text.getvalue())


#: Values of --save-labels.
WRITERS: dict[str, type[YoloWriter] | type[CsvWriter] | type[LabelMeWriter]] = {
    "yolo": YoloWriter,
    "csv": CsvWriter,
    "labelme": LabelMeWriter,
}


def check_names(inputs: Sequence[Input], form: str) -> None:
    """
    Args:
        inputs: all inputs of a run.
        form: a key of `WRITERS`.

    Raises:
        UserError: two pictures would share their labels.
    """
    seen: dict[str, Input] = {}
    for picture in (one for one in inputs if not one.is_video):
        key = picture.name if form == "csv" else _with_suffix(picture.name, "").as_posix()
        before = seen.setdefault(key, picture)
        if before is not picture:
            raise UserError(
                f"--save-labels {form}: {before.path} and {picture.path} would share their labels. Rename one, give "
                "them in two runs, or give the folder above both with --recursive"
            )


def _labels(instances: Instances, class_names: Sequence[str]) -> Iterator[Label]:
    for box, score, number in zip(
        instances.pred_boxes.tensor.tolist(), instances.scores.tolist(), instances.pred_classes.tolist(), strict=True
    ):
        yield Label(number, class_names[number], score, tuple(box))


def _with_suffix(name: str, suffix: str) -> Path:
    path = Path(name)
    return path.with_name(path.stem + suffix)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda stream: stream.write(text.encode()))
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error}") from error
