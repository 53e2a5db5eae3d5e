# SPDX-License-Identifier: Apache-2.0
"""Pictures of a dataset before training: its labels, its statistics, and the batches that a model is given."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dino_d2.data.pictures import read_picture
from dino_d2.detectron2.structures import BoxMode

from .boxes import LabelledBox, draw_boxes
from .mapped import image_of
from .predictions import ground_truth_boxes
from .sheet import GAP, captioned, legend, side_by_side, stacked
from .style import TILE, colour_of

_COLUMNS = 4
#: Most bars in the picture of the classes.
_MOST_CLASSES = 40
_BINS = 30


def sheet_of_labels(dataset_dicts: Sequence[dict[str, Any]], class_names: Sequence[str]) -> Image.Image:
    """Draw images with their labels. Crowd regions have dashed lines.

    Args:
        dataset_dicts: in Detectron2's format, with `file_name` and `annotations`; at least one.
        class_names: the name of class k at index k.
    """
    tiles, shown = [], set()
    for dataset_dict in dataset_dicts:
        boxes = ground_truth_boxes(dataset_dict, class_names)
        shown |= {box.class_index for box in boxes}
        image = Image.fromarray(read_picture(dataset_dict["file_name"], format="RGB"))
        name = Path(dataset_dict["file_name"]).name
        tiles.append(captioned(draw_boxes(image, boxes, longer_side=TILE), f"{_shortened(name)}, {_count(boxes)}"))
    return _sheet(tiles, shown, class_names)


def sheet_of_batch(
    batch: Sequence[dict[str, Any]], image_format: str, class_names: Sequence[str] | None
) -> Image.Image:
    """Draw a batch as the model is given it: augmented images and their ground truth.

    Args:
        batch: outputs of a data mapper; at least one.
        image_format: colour order of "image", "RGB" or "BGR".
        class_names: the name of class k at index k; None shows the indices.
    """
    tiles, shown = [], set()
    for mapped in batch:
        boxes = _boxes_of_instances(mapped, class_names)
        shown |= {box.class_index for box in boxes}
        image = image_of(mapped, image_format)
        caption = f"image {mapped.get('image_id', '')}, {image.width} x {image.height}, {_count(boxes)}"
        tiles.append(captioned(draw_boxes(image, boxes, longer_side=TILE), caption))
    return _sheet(tiles, shown, class_names or [str(k) for k in range(max(shown, default=-1) + 1)])


def histograms(dataset_dicts: Sequence[dict[str, Any]], class_names: Sequence[str]) -> Figure:
    """Draw objects per class, their sizes, objects per image, and the sizes of the images. Crowds are left out.

    Args:
        dataset_dicts: in Detectron2's format, with `width`, `height` and `annotations`; at least one.
        class_names: the name of class k at index k.
    """
    objects = [[a for a in one.get("annotations", []) if not a.get("iscrowd", 0)] for one in dataset_dicts]
    counts = Counter(annotation["category_id"] for of_image in objects for annotation in of_image)
    classes = sorted(range(len(class_names)), key=lambda k: (-counts[k], k))[:_MOST_CLASSES]
    rows = max(8, len(classes))
    figure = Figure(figsize=(11, 7 + max(0, rows - 16) * 0.2), layout="constrained")
    (of_classes, of_sizes), (of_images, of_files) = figure.subplots(2, 2, height_ratios=(max(1, rows / 16), 1))

    colours = [tuple(value / 255 for value in colour_of(k)) for k in classes]
    bars = of_classes.barh(range(len(classes)), [counts[k] for k in classes], color=colours)
    of_classes.bar_label(bars, padding=2, fontsize=8)
    of_classes.set_xmargin(0.12)
    of_classes.set_yticks(range(len(classes)), [_shortened(class_names[k]) for k in classes], fontsize=8)
    of_classes.invert_yaxis()
    left_out = len(class_names) - len(classes)
    of_classes.set(title="objects per class" + (f" ({left_out} more classes)" if left_out else ""))

    sides = [side for of_image in objects for side in map(_side, of_image) if side > 0]
    if sides:
        low, high = math.log10(min(sides)), math.log10(max(sides))
        bins = np.logspace(low, high + 0.01, _BINS)
        of_sizes.hist(sides, bins=bins, color="0.4")
        of_sizes.set_xscale("log")
        for bound, name in ((32, "small < 32"), (96, "large > 96")):  # COCO's areas
            of_sizes.axvline(bound, color="0.7", linestyle="--", linewidth=1)
            place, above = (bound, 1), ("data", "axes fraction")
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            of_sizes.annotate(name, place, xycoords=above, va="top", ha="right", fontsize=7, rotation=90, bbox=box)
    of_sizes.set(title="object size", xlabel="square root of the box's area, pixels", ylabel="objects")

    numbers = [len(of_image) for of_image in objects]
    of_images.hist(numbers, bins=np.linspace(-0.5, max(numbers) + 0.5, min(max(numbers) + 2, _BINS)), color="0.4")
    of_images.set(title="objects per image", xlabel="objects", ylabel="images")

    files = Counter((one["width"], one["height"]) for one in dataset_dicts)
    widths, heights = zip(*files, strict=True)
    area = [20 + 180 * count / max(files.values()) for count in files.values()]
    of_files.scatter(widths, heights, s=area, color="0.4", alpha=0.6)
    of_files.set(
        title="image sizes" if len(files) > 1 else "image sizes (all are equal)",
        xlabel="width, pixels",
        ylabel="height, pixels",
    )
    of_files.set(xlim=(0, 1.1 * max(widths)), ylim=(0, 1.1 * max(heights)))
    return figure


def _boxes_of_instances(mapped: dict[str, Any], class_names: Sequence[str] | None) -> list[LabelledBox]:
    if "instances" not in mapped:
        return []
    instances = mapped["instances"]
    rows = zip(instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist(), strict=True)
    return [LabelledBox(tuple(box), k, class_names[k] if class_names else str(k)) for box, k in rows]


def _count(boxes: list[LabelledBox]) -> str:
    return f"{len(boxes)} object{'s' * (len(boxes) != 1)}"


def _side(annotation: dict) -> float:
    _, _, width, height = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return math.sqrt(max(0.0, width) * max(0.0, height))


def _shortened(name: str, at_most: int = 40) -> str:
    return name if len(name) <= at_most else f"{name[: at_most - 1]}…"


def _sheet(tiles: list[Image.Image], shown: set[int], class_names: Sequence[str]) -> Image.Image:
    columns = min(_COLUMNS, math.ceil(math.sqrt(len(tiles))))
    rows = [side_by_side(*tiles[i : i + columns], gap=2 * GAP) for i in range(0, len(tiles), columns)]
    names = [(class_names[k], colour_of(k)) for k in sorted(shown)]
    width = max(row.width for row in rows)
    return stacked(*rows, legend(names, width)) if names else stacked(*rows)
