# SPDX-License-Identifier: Apache-2.0
"""Boxes and instances, as in `detectron2.structures`."""

from .boxes import Boxes, BoxMode, pairwise_iou
from .instances import Instances

__all__ = ["BoxMode", "Boxes", "Instances", "pairwise_iou"]
