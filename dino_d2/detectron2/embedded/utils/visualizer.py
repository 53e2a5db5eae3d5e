# SPDX-License-Identifier: Apache-2.0
"""Boxes and masks on an image, as in `detectron2.utils.visualizer`; the pictures are `dino_d2.visualize`'s."""

from collections.abc import Sequence
from enum import Enum, unique
from os import PathLike
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from dino_d2.visualize.boxes import LabelledBox, draw_boxes
from dino_d2.visualize.masks import draw_mask
from dino_d2.visualize.style import colour_of

from ..data import Metadata, MetadataCatalog
from ..not_served import NeedsDetectron2
from ..structures import Boxes, BoxMode, Instances


@unique
class ColorMode(Enum):
    """How instances are drawn."""

    IMAGE = 0  # a different colour for each instance
    SEGMENTATION = 1  # colours near that of the class in the metadata's `thing_colors`, if it has any
    IMAGE_BW = 2  # as IMAGE, with the area outside all masks in grey


class VisImage:
    """A picture that is being drawn."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """
        Args:
            img: RGB `[H, W, 3]`, values in [0, 255].
            scale: of the picture, relative to `img`.
        """
        self.img = img
        self.scale = scale
        self.height, self.width = img.shape[:2]
        self.reset_image(img)

    def reset_image(self, img: np.ndarray) -> None:
        """Start again on another image of the same size."""
        width, height = (max(1, int(side * self.scale + 1e-2)) for side in (self.width, self.height))
        self.canvas = Image.fromarray(img.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)

    def get_image(self) -> np.ndarray:
        """The picture as RGB, uint8 `[H·scale, W·scale, 3]`."""
        return np.array(self.canvas)

    def save(self, filepath: str | PathLike) -> None:
        """Write the picture to a file, in the format of the name's ending."""
        self.canvas.save(filepath)


class Visualizer:
    """Draws predictions and annotations on an image; every method returns the picture drawn so far."""

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Metadata | None = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
        font_size_scale: float = 1.0,
    ) -> None:
        """
        Args:
            img_rgb: `[H, W, 3]`, values in [0, 255].
            metadata: of the dataset; `thing_classes` and `thing_colors` are used.
            scale: of the picture, relative to the image.
            font_size_scale: scale of the label font, relative to the default for the size of the picture.
        """
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        self.output = VisImage(self.img, scale)
        self._instance_mode = instance_mode
        self._font_size_scale = font_size_scale

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(str(NeedsDetectron2(f"'detectron2.utils.visualizer.Visualizer.{name}'")))

    def get_output(self) -> VisImage:
        """The picture so far."""
        return self.output

    def draw_instance_predictions(self, predictions: Instances, jittering: bool = True) -> VisImage:
        """Draw the detections of a model.

        Args:
            predictions: on the CPU, with any of `pred_boxes`, `scores`, `pred_classes` and `pred_masks`
                (bool `[n, H, W]`).
            jittering: with `ColorMode.SEGMENTATION`, vary the colour slightly among instances of a class.

        Raises:
            NeedsDetectron2: the predictions have keypoints or masks as RLE.
        """
        for field in ("pred_keypoints", "pred_masks_rle"):
            if predictions.has(field):
                raise NeedsDetectron2(f"drawing {field}")
        boxes, scores, classes, masks = (
            predictions.get(field) if predictions.has(field) else None
            for field in ("pred_boxes", "scores", "pred_classes", "pred_masks")
        )
        classes = None if classes is None else classes.tolist()
        labels = _labels(classes, scores, self.metadata.get("thing_classes"), [False] * len(predictions))
        colors, alpha = self._class_colors(classes, jittering), 0.5
        if colors is not None:
            alpha = 0.8
        if self._instance_mode is ColorMode.IMAGE_BW:
            self.output.reset_image(
                self._grey_outside(None if masks is None else np.logical_or.reduce(np.asarray(masks), axis=0))
            )
            alpha = 0.3
        return self.overlay_instances(boxes=boxes, labels=labels, masks=masks, assigned_colors=colors, alpha=alpha)

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw the annotations of a dataset dict.

        Raises:
            NeedsDetectron2: the dict has keypoints, or semantic or panoptic segmentation.
        """
        for key in ("sem_seg", "sem_seg_file_name", "pan_seg", "pan_seg_file_name"):
            if dic.get(key) is not None:
                raise NeedsDetectron2(f"drawing {key}")
        annotations = dic.get("annotations")
        if not annotations:
            return self.output
        classes = [annotation["category_id"] for annotation in annotations]
        crowds = [bool(annotation.get("iscrowd", 0)) for annotation in annotations]
        first = annotations[0]
        return self.overlay_instances(
            boxes=[BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations],
            labels=_labels(classes, None, self.metadata.get("thing_classes"), crowds),
            masks=[a["segmentation"] for a in annotations] if "segmentation" in first else None,
            keypoints=[a["keypoints"] for a in annotations] if "keypoints" in first else None,
            assigned_colors=self._class_colors(classes, jittering=True),
        )

    def overlay_instances(
        self,
        *,
        boxes: Boxes | np.ndarray | Sequence | None = None,
        labels: Sequence[str] | None = None,
        masks: Sequence[Any] | np.ndarray | torch.Tensor | None = None,
        keypoints: Any = None,
        assigned_colors: Sequence[Any] | None = None,
        alpha: float = 0.5,
    ) -> VisImage:
        """Draw n instances, large ones first.

        Args:
            boxes: absolute (x1, y1, x2, y2), `[n, 4]`.
            labels: a text for each instance, at its box, or at its mask where there are no boxes.
            masks: each one `[H, W]` of 0 and 1, a list of polygons [x0, y0, x1, y1, ...], or COCO's RLE.
            keypoints: must be None.
            assigned_colors: matplotlib's name or RGB in [0, 1] of each; by default all different.
            alpha: opacity of masks, in [0, 1].

        Raises:
            NeedsDetectron2: for keypoints and rotated boxes.
            AssertionError: the numbers of boxes, masks and labels differ.
        """
        if keypoints is not None:
            raise NeedsDetectron2("drawing keypoints")
        corners = None if boxes is None else _array(boxes)
        if corners is not None and corners.size and corners.shape[-1] != 4:
            raise NeedsDetectron2("drawing rotated boxes")
        bitmaps = None if masks is None else [self._bitmap(mask) for mask in masks]
        counts = {len(values) for values in (corners, bitmaps, labels) if values is not None}
        if len(counts) > 1:
            raise AssertionError(f"The numbers of boxes, masks and labels differ: {sorted(counts)}.")
        count = counts.pop() if corners is not None or bitmaps is not None else 0
        if count == 0:
            return self.output
        colors = [colour_of(index) for index in range(count)]
        if assigned_colors is not None:
            colors = [
                (round(255 * red), round(255 * green), round(255 * blue))
                for red, green, blue in map(to_rgb, assigned_colors)
            ]
        for bitmap, color in sorted(zip(bitmaps or [], colors, strict=False), key=lambda pair: -pair[0].sum()):
            self.output.canvas = draw_mask(self.output.canvas, bitmap, color, alpha)

        texts = labels or [""] * count
        places = [_extent(bitmap) for bitmap in bitmaps or []] if corners is None else corners.tolist()
        labelled = [
            LabelledBox(
                tuple(self.output.scale * side for side in place), 0, text, colour=color, outlined=corners is not None
            )
            for place, text, color in zip(places, texts, colors, strict=True)
        ]
        longer_side = max(self.output.canvas.size)
        self.output.canvas = draw_boxes(self.output.canvas, labelled, longer_side, letter_scale=self._font_size_scale)
        return self.output

    def _class_colors(self, classes: list[int] | None, jittering: bool) -> list[np.ndarray] | None:
        """RGB in [0, 1] of each instance; None where colours do not depend on the class."""
        of_classes = self.metadata.get("thing_colors")
        if self._instance_mode is not ColorMode.SEGMENTATION or not of_classes or classes is None:
            return None
        colors = [np.array(of_classes[index]) / 255 for index in classes]
        if not jittering:
            return colors
        steps = np.random.rand(len(colors), 3)  # noqa: NPY002 as Detectron2 does
        steps *= 0.5 / np.linalg.norm(steps, axis=1, keepdims=True)
        return [np.clip(color + step, 0, 1) for color, step in zip(colors, steps, strict=True)]

    def _grey_outside(self, mask: np.ndarray | None) -> np.ndarray:
        grey = np.repeat(self.img.mean(axis=2, keepdims=True), 3, axis=2)
        return grey if mask is None else np.where(mask[:, :, None], self.img, grey)

    def _bitmap(self, mask: Any) -> np.ndarray:
        """A mask of any kind as bool `[H, W]`."""
        height, width = self.output.height, self.output.width
        if isinstance(mask, list | dict):
            polygons = (
                [np.asarray(polygon).reshape(-1).tolist() for polygon in mask] if isinstance(mask, list) else None
            )
            if polygons == []:
                return np.zeros((height, width), dtype=bool)
            is_compressed = isinstance(mask, dict) and not isinstance(mask["counts"], list)
            rle = mask if is_compressed else mask_util.frPyObjects(polygons or mask, height, width)
            mask = mask_util.decode(mask_util.merge(rle) if polygons else rle)
        bitmap = np.asarray(mask) > 0
        if bitmap.shape != (height, width):
            raise AssertionError(f"A mask has shape {bitmap.shape}, but the image has {(height, width)}.")
        return bitmap


def _array(boxes: Boxes | np.ndarray | Sequence) -> np.ndarray:
    return boxes.tensor.detach().numpy() if isinstance(boxes, Boxes) else np.asarray(boxes)


def _extent(bitmap: np.ndarray) -> tuple[float, float, float, float]:
    """(x1, y1, x2, y2) around the pixels of a mask; zeros if it is empty."""
    ys, xs = bitmap.nonzero()
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else (0, 0, 0, 0)


def _labels(
    classes: list[int] | None, scores: torch.Tensor | None, names: Sequence[str] | None, crowds: Sequence[bool]
) -> list[str] | None:
    """Texts such as "dog 87%" and "dog|crowd"; None where neither class nor score is known."""
    if classes is None and scores is None:
        return None
    parts: list[list[str]] = [[] for _ in crowds]
    for index, part in enumerate(parts):
        if classes is not None:
            part.append(names[classes[index]] if names else str(classes[index]))
        if scores is not None:
            part.append(f"{scores[index] * 100:.0f}%")
    return [" ".join(part) + "|crowd" * crowd for part, crowd in zip(parts, crowds, strict=True)]
