# SPDX-License-Identifier: Apache-2.0
"""Evaluation: COCO AP by class, score thresholds and mistakes, and measures of the DINO and DN-DETR papers."""

from .duplicates import DuplicateEvaluator
from .matching_evaluator import MatchingEvaluator
from .per_class import PerClassCOCOEvaluator

__all__ = ["DuplicateEvaluator", "MatchingEvaluator", "PerClassCOCOEvaluator"]
