# SPDX-License-Identifier: Apache-2.0
"""Measurements of the DINO and DN-DETR papers, as Detectron2 evaluators that run together with COCO AP."""

from .duplicates import DuplicateEvaluator
from .matching_evaluator import MatchingEvaluator

__all__ = ["DuplicateEvaluator", "MatchingEvaluator"]
