# SPDX-License-Identifier: Apache-2.0
"""Pictures of detections, with or without the ground truth next to them."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dino_d2.data.pictures import read_picture
from dino_d2.detectron2.data import DatasetCatalog, MetadataCatalog
from dino_d2.detectron2.structures import BoxMode, Instances

from .boxes import LabelledBox, draw_boxes
from .mapped import evaluating
from .sheet import GAP, captioned, legend, side_by_side, stacked
from .style import TILE, colour_of


def draw_detections(
    image: Image.Image, instances: Instances, class_names: Sequence[str], score_threshold: float = 0.3
) -> Image.Image:
    """Draw detections on an image; `draw_boxes` describes the size of the result.

    Args:
        image: RGB, of the same size as `instances`.
        instances: with `pred_boxes` (absolute xyxy), `scores` in [0, 1] and `pred_classes`.
        class_names: the name of class k at index k.
        score_threshold: detections with a lower score are not drawn.
    """
    return draw_boxes(image, _confident(instances, class_names, score_threshold))


def picture_of_predictions(
    model: torch.nn.Module,
    dataset: str,
    mapper: Any,
    path: str | PathLike,
    count: int = 8,
    score_threshold: float = 0.3,
) -> None:
    """Write a PNG of detections and ground truth in images that are spread evenly over a registered dataset.

    Args:
        dataset: a name in the catalogs; its metadata has `thing_classes`.
        path: of the PNG; its folder is created.
        count: number of images.
        model, mapper, score_threshold: see `panel_of_predictions`.
    """
    names = MetadataCatalog.get(dataset).thing_classes
    save(panel_of_predictions(model, pick(dataset, count), mapper, names, score_threshold), path)


def pick(dataset: str, count: int) -> list[dict[str, Any]]:
    """`count` dataset dicts, spread evenly over a registered dataset; all if it has fewer."""
    dataset_dicts = DatasetCatalog.get(dataset)
    picks = np.linspace(0, len(dataset_dicts) - 1, min(count, len(dataset_dicts))).round().astype(int)
    return [dataset_dicts[i] for i in picks]


def panel_of_predictions(
    model: torch.nn.Module,
    dataset_dicts: Sequence[dict[str, Any]],
    mapper: Any,
    class_names: Sequence[str],
    score_threshold: float = 0.3,
) -> Image.Image:
    """Run the model on images and draw each twice: ground truth on the left, predictions on the right.

    Args:
        model: from a list of dicts to `[{"instances": Instances}]`; its training or evaluation mode is restored.
        mapper: the data mapper of the test loader.
        dataset_dicts, class_names, score_threshold: see `draw_predictions`.
    """
    with evaluating(model):  # one image at a time, so that memory stays that of the evaluation
        predictions = [model([mapper(dataset_dict)])[0]["instances"] for dataset_dict in dataset_dicts]
    return _panel(dataset_dicts, predictions, class_names, score_threshold)


def draw_predictions(
    dataset_dicts: Sequence[dict[str, Any]],
    predictions: Sequence[Instances],
    class_names: Sequence[str],
    path: str | PathLike,
    score_threshold: float = 0.3,
) -> None:
    """Write a PNG with two pictures of each image: ground truth on the left, predictions on the right.

    Args:
        dataset_dicts: in Detectron2's format, with `file_name` and `annotations`. Crowd regions have dashed lines.
        predictions: one for each dict, with `pred_boxes` (absolute xyxy in the original image),
            `scores` in [0, 1] and `pred_classes`.
        class_names: the name of class k at index k.
        path: of the PNG; its folder is created.
        score_threshold: predictions with a lower score are not drawn.

    Raises:
        ValueError: no images, or not one prediction for each.
    """
    if not dataset_dicts or len(dataset_dicts) != len(predictions):
        raise ValueError(
            f"There must be one prediction for each image, but there are {len(dataset_dicts)} images and "
            f"{len(predictions)} predictions."
        )
    save(_panel(dataset_dicts, predictions, class_names, score_threshold), path)


def _panel(
    dataset_dicts: Sequence[dict[str, Any]],
    predictions: Sequence[Instances],
    class_names: Sequence[str],
    score_threshold: float,
) -> Image.Image:
    pairs, shown_classes = [], set()
    for dataset_dict, instances in zip(dataset_dicts, predictions, strict=True):
        image = Image.fromarray(read_picture(dataset_dict["file_name"], format="RGB"))
        truth = ground_truth_boxes(dataset_dict, class_names)
        found = _confident(instances, class_names, score_threshold)
        shown_classes |= {box.class_index for box in truth + found}
        left, right = (draw_boxes(image, boxes, longer_side=TILE) for boxes in (truth, found))
        pairs.append(
            side_by_side(
                captioned(left, f"image {dataset_dict.get('image_id', '')}, ground truth: {len(truth)}"),
                captioned(right, f"predictions with score ≥ {score_threshold:g}: {len(found)}"),
            )
        )
    columns = 2 if len(pairs) > 2 else 1
    rows = [side_by_side(*pairs[i : i + columns], gap=3 * GAP) for i in range(0, len(pairs), columns)]
    names = [(class_names[k], colour_of(k)) for k in sorted(shown_classes)]
    return stacked(*rows, legend(names, max(row.width for row in rows)))


def save(picture: Image.Image, path: str | PathLike) -> None:
    """Write a PNG and create its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG")


def ground_truth_boxes(dataset_dict: dict[str, Any], class_names: Sequence[str]) -> list[LabelledBox]:
    """The annotations of a dataset dict as boxes to draw; crowd regions are dashed and say so."""
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
    best_first = sorted((row for row in rows if row[2] >= score_threshold), key=lambda row: -row[2])
    return [LabelledBox(tuple(box), k, f"{class_names[k]} {score:.2f}") for box, k, score in best_first]
