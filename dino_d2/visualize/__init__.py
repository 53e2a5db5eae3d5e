# SPDX-License-Identifier: Apache-2.0
"""Pictures of datasets, of detections, of predictions next to the ground truth, and of a detector's queries."""

from .boxes import LabelledBox, draw_boxes
from .dataset import histograms, sheet_of_batch, sheet_of_labels
from .denoising import panel_of_denoising
from .predictions import draw_detections, draw_predictions, panel_of_predictions, picture_of_predictions
from .sampling import panel_of_sampling_points

__all__ = [
    "LabelledBox",
    "draw_boxes",
    "draw_detections",
    "draw_predictions",
    "histograms",
    "panel_of_denoising",
    "panel_of_predictions",
    "panel_of_sampling_points",
    "picture_of_predictions",
    "sheet_of_batch",
    "sheet_of_labels",
]
