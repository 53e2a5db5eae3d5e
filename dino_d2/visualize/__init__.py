"""Pictures: boxes on images of any size, predictions beside ground truth, and the inside of a detector at work."""

from .boxes import LabelledBox, draw_boxes
from .predictions import draw_detections, draw_predictions, panel_of_predictions, picture_of_predictions

__all__ = [
    "LabelledBox",
    "draw_boxes",
    "draw_detections",
    "draw_predictions",
    "panel_of_predictions",
    "picture_of_predictions",
]
