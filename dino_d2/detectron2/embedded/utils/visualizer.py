"""Boxes drawn on images, as in `detectron2.utils.visualizer`."""

import colorsys
from enum import Enum, unique
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.catalog import Metadata, MetadataCatalog
from ..structures import Boxes, BoxMode, Instances

__all__ = ["ColorMode", "VisImage", "Visualizer"]


@unique
class ColorMode(Enum):
    """How instances are coloured; the embedded engine has one way."""

    IMAGE = 0


class VisImage:
    """The picture that is drawn on."""

    def __init__(self, img: np.ndarray, scale: float = 1.0) -> None:
        """`img`: RGB, uint8 `[H, W, 3]`."""
        image = Image.fromarray(img)
        self.width, self.height = int(image.width * scale + 1e-2), int(image.height * scale + 1e-2)
        self.image = image.resize((self.width, self.height), Image.BILINEAR)
        self.scale = scale

    def get_image(self) -> np.ndarray:
        """RGB, uint8 `[H, W, 3]`."""
        return np.asarray(self.image)

    def save(self, filepath: str) -> None:
        self.image.save(filepath)


class Visualizer:
    """Draws boxes with class names and scores on one image; every method returns the `VisImage`."""

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Metadata | None = None,
        scale: float = 1.0,
        instance_mode: ColorMode = ColorMode.IMAGE,
    ) -> None:
        """
        Args:
            img_rgb: `[H, W, 3]`, values in 0..255.
            metadata: where `thing_classes` are taken from.
            scale: of the picture against the image.
        """
        self.img = np.asarray(img_rgb).clip(0, 255).astype(np.uint8)
        self.metadata = MetadataCatalog.get("__nonexist__") if metadata is None else metadata
        self.output = VisImage(self.img, scale)
        self._font = ImageFont.load_default(max(10, (self.output.height * self.output.width) ** 0.5 / 45))

    def draw_instance_predictions(self, predictions: Instances) -> VisImage:
        """Draw `pred_boxes` with the names of `pred_classes` and the `scores` in percent, those there are."""
        fields = predictions.get_fields()
        classes = fields["pred_classes"].tolist() if "pred_classes" in fields else None
        labels = None if classes is None else [self._name(c) for c in classes]
        if "scores" in fields:
            percent = [f"{score * 100:.0f}%" for score in fields["scores"].tolist()]
            labels = percent if labels is None else [f"{n} {p}" for n, p in zip(labels, percent, strict=True)]
        colours = None if classes is None else [_colour(c) for c in classes]
        return self.overlay_instances(boxes=fields.get("pred_boxes"), labels=labels, assigned_colors=colours)

    def draw_dataset_dict(self, dic: dict[str, Any]) -> VisImage:
        """Draw the annotations of a dataset dict, crowds marked as such."""
        annotations = dic.get("annotations") or []
        boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
        labels = [self._name(a["category_id"]) + ("|crowd" if a.get("iscrowd") else "") for a in annotations]
        colours = [_colour(a["category_id"]) for a in annotations]
        return self.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colours)

    def overlay_instances(
        self,
        *,
        boxes: Boxes | np.ndarray | list | None = None,
        labels: list[str] | None = None,
        assigned_colors: list[tuple[float, float, float]] | None = None,
    ) -> VisImage:
        """Draw boxes (x1, y1, x2, y2, in the image's pixels), the largest first.

        Args:
            labels: a text per box.
            assigned_colors: an RGB colour per box, in 0..1; by default each gets its own.
        """
        if boxes is None or len(boxes) == 0:
            return self.output
        corners = np.asarray(boxes.tensor.cpu() if isinstance(boxes, Boxes) else boxes, dtype=float)
        corners = corners.reshape(-1, 4) * self.output.scale
        sizes = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
        draw = ImageDraw.Draw(self.output.image)
        line_width = max(1, round(self._font.size / 6))
        for i in np.argsort(-sizes):
            rgb = _colour(i) if assigned_colors is None else assigned_colors[i]
            colour = tuple(round(255 * channel) for channel in rgb)
            x1, y1, x2, y2 = corners[i]
            draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=colour, width=line_width)
            if labels is not None:
                area = draw.textbbox((x1, y1), labels[i], font=self._font)
                draw.rectangle(area, fill=(0, 0, 0))
                draw.text((x1, y1), labels[i], fill=colour, font=self._font)
        return self.output

    def get_output(self) -> VisImage:
        return self.output

    def _name(self, category: int) -> str:
        names = self.metadata.get("thing_classes")
        return names[category] if names and category < len(names) else str(category)


def _colour(index: int) -> tuple[float, float, float]:
    """A bright colour; neighbouring numbers get hues far apart (steps of the golden ratio)."""
    return colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.75, 1.0)
