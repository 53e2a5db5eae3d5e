# SPDX-License-Identifier: Apache-2.0
"""Saving and loading, as in `detectron2.checkpoint`."""

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from .detection_checkpoint import DetectionCheckpointer

__all__ = ["Checkpointer", "DetectionCheckpointer", "PeriodicCheckpointer"]
