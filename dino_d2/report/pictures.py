# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report: the worst images, the most confident false positives and the largest missed objects."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from dino_d2.data.pictures import PictureError, read_picture
from dino_d2.evaluation.class_ap import UNMATCHED
from dino_d2.evaluation.mistakes import FalsePositive, by_image
from dino_d2.visualize.boxes import LabelledBox
from dino_d2.visualize.mistakes import beside
from dino_d2.visualize.style import Colour

from .measures import Measures

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Colours of the mistake that a picture shows, of other mistakes and of all else.
RED, ORANGE, GREEN = (235, 20, 20), (255, 150, 0), (60, 200, 60)


class Picture(NamedTuple):
    """A mistake, or an image with mistakes."""

    caption: str
    truth: Image.Image
    detections: Image.Image


class Pictures(NamedTuple):
    """All pictures of a report."""

    worst_images: list[Picture]
    false_positives: list[Picture]
    missed: list[Picture]


def draw_pictures(measures: Measures, folder: Path, count: int) -> Pictures:
    """Draw up to ``count`` pictures of each kind; an image that cannot be read is left out, with a warning.

    Args:
        folder: that the file names of the ground truth are relative to.
    """
    return _Artist(measures, folder).draw(count)


class _Artist:
    def __init__(self, measures: Measures, folder: Path):
        self.measures, self.folder = measures, folder
        truth, detections = measures.truth, measures.detections
        self.objects_in = by_image(truth.image)
        self.kept = np.flatnonzero(detections.scores >= measures.score_threshold)
        self.found_in = by_image(detections.image[self.kept])
        self.all_missed = set(measures.mistakes.missed.tolist())
        self.all_wrong = {mistake.detection for mistake in measures.mistakes.false_positives}
        self.unread: set[int] = set()

    def draw(self, count: int) -> Pictures:
        measures = self.measures
        mistakes, truth = measures.mistakes, measures.truth
        area = truth.boxes[mistakes.missed, 2:].prod(1)
        largest = mistakes.missed[np.argsort(-area, kind="stable")]
        with tqdm(total=3 * count, desc="pictures", unit="picture", disable=None, leave=False) as bar:
            return Pictures(
                self._some(self._worst_image, measures.worst_images, count, bar),
                self._some(self._false_positive, mistakes.false_positives, count, bar),
                self._some(self._missed, largest.tolist(), count, bar),
            )

    def _some(self, draw: Callable[[T], Picture | None], things: Sequence[T], count: int, bar: tqdm) -> list[Picture]:
        pictures: list[Picture] = []
        for thing in things:
            if len(pictures) == count or len(self.unread) > count:
                break
            picture = draw(thing)
            if picture is not None:
                pictures.append(picture)
                bar.update()
        return pictures

    def _worst_image(self, image: int) -> Picture | None:
        mistakes, truth = self.measures.mistakes, self.measures.truth
        wrong = {m.detection for m in mistakes.false_positives if self.measures.detections.image[m.detection] == image}
        missed = set(mistakes.missed[truth.image[mistakes.missed] == image].tolist())
        caption = f"{truth.file_names[image]}: wrong detections {len(wrong)}, missed objects {len(missed)}"
        return self._picture(image, caption, missed, wrong)

    def _false_positive(self, mistake: FalsePositive) -> Picture | None:
        measures = self.measures
        truth, detections = measures.truth, measures.detections
        n = mistake.detection
        text = f"{truth.class_names[detections.label[n]]} {detections.scores[n]:.2f}: {mistake.kind}"
        if mistake.object >= 0:
            text += f" (IoU {mistake.iou:.2f} with {truth.class_names[truth.label[mistake.object]]})"
        image = int(detections.image[n])
        return self._picture(image, f"{text}. {truth.file_names[image]}", set(), {n}, _xyxy(detections.boxes[n]))

    def _missed(self, m: int) -> Picture | None:
        truth = self.measures.truth
        width, height = truth.boxes[m, 2:]
        image = int(truth.image[m])
        text = f"{truth.class_names[truth.label[m]]} of {width:.0f} × {height:.0f} pixels. {truth.file_names[image]}"
        return self._picture(image, text, {m}, set(), _xyxy(truth.boxes[m]))

    def _picture(
        self,
        image: int,
        caption: str,
        missed: set[int],
        wrong: set[int],
        around: tuple[float, float, float, float] | None = None,
    ) -> Picture | None:
        pixels = self._read(image)
        if pixels is None:
            return None
        truth, detections = self.measures.truth, self.measures.detections
        names = truth.class_names
        objects, found = [], []
        for m in self.objects_in.get(image, []):
            label, crowd = int(truth.label[m]), bool(truth.is_crowd[m])
            colour = _colour(m, missed, self.all_missed)
            text = f"{names[label]} (crowd)" if crowd else names[label]
            objects.append(LabelledBox(_xyxy(truth.boxes[m]), label, text, crowd, colour))
        of_image = self.kept[self.found_in.get(image, np.zeros(0, np.int64))]
        for n in of_image[np.argsort(-detections.scores[of_image], kind="stable")]:
            label, dashed = int(detections.label[n]), self.measures.ap.match[n] < UNMATCHED
            colour = _colour(n, wrong, self.all_wrong)
            text = f"{names[label]} {detections.scores[n]:.2f}"
            found.append(LabelledBox(_xyxy(detections.boxes[n]), label, text, dashed, colour))
        # The first labels find a place; later boxes are drawn on top.
        objects.sort(key=lambda box: box.colour != RED)
        found.sort(key=lambda box: box.colour != RED)
        return Picture(caption, *beside(pixels, objects, found, around))

    def _read(self, image: int) -> Image.Image | None:
        path = self.folder / self.measures.truth.file_names[image]
        try:
            return Image.fromarray(read_picture(path, "RGB"))
        except (PictureError, OSError) as error:
            if image not in self.unread:
                self.unread.add(image)
                logger.warning("%s is not drawn: %s", path, error)
            return None


def _colour(index: int, shown: set[int], mistakes: set[int]) -> Colour:
    return RED if index in shown else ORANGE if index in mistakes else GREEN


def _xyxy(box: np.ndarray) -> tuple[float, float, float, float]:
    x, y, width, height = box.tolist()
    return x, y, x + width, y + height
