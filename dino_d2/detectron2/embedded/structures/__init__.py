# SPDX-License-Identifier: Apache-2.0
"""Boxes and instances, as in `detectron2.structures`."""
# ruff: noqa: F401

from .boxes import Boxes, BoxMode, pairwise_iou
from .instances import Instances
