"""A picture of what a model finds, beside the ground truth."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.data.detection_utils import read_image
from dino_d2.detectron2.structures import BoxMode, Instances

_TILE = 480  # longer side of each drawn image, so that lines and letters suit images of any size
_GAP = 8
_CAPTION = 24
_LINE = 3
_CROWDED = 12  # boxes; in a fuller picture a label must not be larger than its box
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True)
class LabelledBox:
    """A box to draw: absolute xyxy in pixels of the original image, its class, its words, dashed or not."""

    box: tuple[float, float, float, float]
    class_index: int
    label: str
    dashed: bool = False


def picture_of_predictions(
    model: torch.nn.Module,
    dataset: str,
    mapper: Any,
    path: str | PathLike,
    count: int = 8,
    score_threshold: float = 0.3,
) -> None:
    """Runs the model on `count` images, spread evenly over a registered dataset, and draws the results.

    Args:
        model: dicts in, `[{"instances": Instances}]` out; left in the mode (training or not) it was in.
        dataset: a name in the catalogs; its metadata has `thing_classes`.
        mapper: dataset dict to model input, that of the test loader.
        path, score_threshold: see `draw_predictions`.
    """
    dataset_dicts = DatasetCatalog.get(dataset)
    picks = np.linspace(0, len(dataset_dicts) - 1, min(count, len(dataset_dicts))).round().astype(int)
    dataset_dicts = [dataset_dicts[i] for i in picks]
    was_training = model.training
    model.eval()
    with torch.no_grad():  # one by one: a panel should not need more memory than the evaluation
        predictions = [model([mapper(dataset_dict)])[0]["instances"] for dataset_dict in dataset_dicts]
    model.train(was_training)
    draw_predictions(dataset_dicts, predictions, MetadataCatalog.get(dataset).thing_classes, path, score_threshold)


def draw_predictions(
    dataset_dicts: Sequence[dict[str, Any]],
    predictions: Sequence[Instances],
    class_names: Sequence[str],
    path: str | PathLike,
    score_threshold: float = 0.3,
) -> None:
    """Draws a PNG with two pictures for each image: ground truth on the left, predictions on the right.

    Args:
        dataset_dicts: in Detectron2's format, with `file_name` and `annotations`. Crowds get dashed lines.
        predictions: one for each dict, with `pred_boxes` (absolute xyxy in the original image),
            `scores` in [0, 1] and `pred_classes`.
        class_names: the name of class k at index k.
        path: of the PNG; its folder is made.
        score_threshold: predictions with a lower score are not drawn.
    """
    if not dataset_dicts or len(dataset_dicts) != len(predictions):
        raise ValueError(f"Got {len(dataset_dicts)} images and {len(predictions)} predictions to draw.")
    pairs, shown_classes = [], set()
    for dataset_dict, instances in zip(dataset_dicts, predictions, strict=True):
        image = Image.fromarray(read_image(dataset_dict["file_name"], format="RGB"))
        truth = _ground_truth(dataset_dict, class_names)
        found = _confident(instances, class_names, score_threshold)
        shown_classes |= {box.class_index for box in truth + found}
        pairs.append(
            _beside(
                _captioned(
                    draw_boxes(image, truth), f"image {dataset_dict.get('image_id', '')}, ground truth: {len(truth)}"
                ),
                _captioned(draw_boxes(image, found), f"predictions with score ≥ {score_threshold:g}: {len(found)}"),
            )
        )
    columns = 2 if len(pairs) > 2 else 1
    rows = [_beside(*pairs[i : i + columns], gap=3 * _GAP) for i in range(0, len(pairs), columns)]
    legend = _legend([(class_names[k], _colour(k)) for k in sorted(shown_classes)], max(r.width for r in rows))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    _below(*rows, legend).save(path, format="PNG")


def draw_boxes(image: Image.Image, boxes: Sequence[LabelledBox]) -> Image.Image:
    """The image, scaled until its longer side has 480 pixels, with boxes and their labels.

    Earlier boxes are the more important ones: their labels get the better places. A label without a free
    place is left out, and so is one that would cover its small box in a picture with many boxes; the colour
    of the box still tells the class.
    """
    scale = _TILE / max(image.size)
    size = tuple(max(1, round(side * scale)) for side in image.size)
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(canvas)
    scaled = [(box, tuple(scale * value for value in box.box)) for box in boxes]
    for box, corners in sorted(scaled, key=lambda pair: -_area(pair[1])):  # small ones on top
        _draw_rectangle(pen, corners, _colour(box.class_index), box.dashed)
    taken: list[tuple] = []
    for box, corners in scaled:
        width, height = pen.textbbox((0, 0), box.label, font=_font(12))[2:]
        if len(boxes) > _CROWDED and _area(corners) < width * height:
            continue
        place = _free_place(corners, (width + 6, height + 4), size, taken)
        if place is not None:
            colour = _colour(box.class_index)
            pen.rectangle(place, fill=colour)
            pen.text((place[0] + 3, place[1] + 1), box.label, fill=_readable_on(colour), font=_font(12))
            taken.append(place)
    return canvas


def _ground_truth(dataset_dict: dict[str, Any], class_names: Sequence[str]) -> list[LabelledBox]:
    boxes = []
    for annotation in dataset_dict.get("annotations", []):
        corners = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        crowd = bool(annotation.get("iscrowd", 0))
        name = class_names[annotation["category_id"]]
        boxes.append(
            LabelledBox(tuple(corners), annotation["category_id"], f"{name} (crowd)" if crowd else name, crowd)
        )
    return boxes


def _confident(instances: Instances, class_names: Sequence[str], score_threshold: float) -> list[LabelledBox]:
    instances = instances.to("cpu")
    rows = zip(
        instances.pred_boxes.tensor.tolist(),
        instances.pred_classes.tolist(),
        instances.scores.tolist(),
        strict=True,
    )
    rows = sorted((row for row in rows if row[2] >= score_threshold), key=lambda row: -row[2])
    return [LabelledBox(tuple(box), k, f"{class_names[k]} {score:.2f}") for box, k, score in rows]


def _area(corners: tuple) -> float:
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: class names are not always ASCII."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _colour(class_index: int) -> tuple[int, int, int]:
    """Steps of the golden ratio around the colour circle: neighbours differ, however many classes there are."""
    hue = (0.02 + class_index * 0.6180339887) % 1
    value = (1.0, 0.85)[class_index // 8 % 2]
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.8, value))


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    lightness = np.dot(colour, (0.299, 0.587, 0.114))
    return (0, 0, 0) if lightness > 140 else (255, 255, 255)


def _draw_rectangle(pen: ImageDraw.ImageDraw, corners: tuple, colour: tuple, dashed: bool) -> None:
    x0, y0, x1, y1 = corners
    path = [(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]
    pieces = [piece for start, end in pairwise(path) for piece in _dashes(start, end, dashed)]
    for piece in pieces:  # a dark rim keeps the line visible on a ground of its own colour
        pen.line(piece, fill=(0, 0, 0), width=_LINE + 2)
    for piece in pieces:
        pen.line(piece, fill=colour, width=_LINE)


def _dashes(start: tuple, end: tuple, dashed: bool, length: float = 9.0) -> list[list[tuple]]:
    """The line from start to end, whole, or every other piece of it."""
    if not dashed:
        return [[start, end]]
    start, end = np.array(start), np.array(end)
    marks = np.linspace(start, end, 2 * max(1, round(np.linalg.norm(end - start) / (2 * length))) + 1)
    return [[tuple(a), tuple(b)] for a, b in zip(marks[::2], marks[1::2], strict=False)]


def _free_place(corners: tuple, label: tuple, size: tuple, taken: list[tuple]) -> tuple | None:
    """A rectangle for a label (width, height) at the box, inside the image (width, height), on no other label."""
    x0, y0, x1, y1 = corners
    width, height = label
    for x in (x0, x1 - width):
        for y in (y0 - height, y0, y1 - height, y1):
            left = min(max(x, 0), size[0] - width - 1)
            top = min(max(y, 0), size[1] - height - 1)
            place = (left, top, left + width, top + height)
            if not any(_overlap(place, other) for other in taken):
                return place
    return None


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _captioned(image: Image.Image, text: str) -> Image.Image:
    """The image in the middle of a square's width, under its caption."""
    sheet = Image.new("RGB", (_TILE, image.height + _CAPTION), _PAPER)
    sheet.paste(image, ((_TILE - image.width) // 2, _CAPTION))
    ImageDraw.Draw(sheet).text((2, 3), text, fill=_INK, font=_font(14))
    return sheet


def _beside(*images: Image.Image, gap: int = _GAP) -> Image.Image:
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    sheet = Image.new("RGB", (width, max(image.height for image in images)), _PAPER)
    x = 0
    for image in images:
        sheet.paste(image, (x, 0))
        x += image.width + gap
    return sheet


def _below(*images: Image.Image) -> Image.Image:
    width = max(image.width for image in images) + 2 * _GAP
    sheet = Image.new("RGB", (width, sum(image.height + _GAP for image in images) + _GAP), _PAPER)
    y = _GAP
    for image in images:
        sheet.paste(image, (_GAP, y))
        y += image.height + _GAP
    return sheet


def _legend(entries: list[tuple[str, tuple]], width: int) -> Image.Image:
    """Names on their colours, as many to a line as fit."""
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places, x, y = [], 0, 0
    for name, colour in entries:
        length = round(probe.textlength(name, font=_font(14))) + 12
        if x and x + length > width:
            x, y = 0, y + _CAPTION
        places.append((x, y, length, name, colour))
        x += length + _GAP
    sheet = Image.new("RGB", (width, y + _CAPTION), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for x, y, length, name, colour in places:
        pen.rectangle((x, y, x + length, y + _CAPTION - 3), fill=colour)
        pen.text((x + 6, y + 2), name, fill=_readable_on(colour), font=_font(14))
    return sheet
