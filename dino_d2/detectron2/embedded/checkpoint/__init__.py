# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, as in `detectron2.checkpoint`."""
# ruff: noqa: F401

from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer

from .detection_checkpoint import DetectionCheckpointer
