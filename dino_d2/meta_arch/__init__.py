# SPDX-License-Identifier: Apache-2.0
"""The Detectron2 shell: dicts in, losses or ``Instances`` out."""

from .detr import DETR, QueryPredictions
from .known_labels import KnownLabelDETR
from .known_objects import KnownAtRandom, KnownClasses, KnownObjectDETR, VisibleQueries, known_classes, unknown_classes
from .progressive import ProgressiveInference
from .tta import OneToOneEnsemble, View

__all__ = [
    "DETR",
    "KnownAtRandom",
    "KnownClasses",
    "KnownLabelDETR",
    "KnownObjectDETR",
    "OneToOneEnsemble",
    "ProgressiveInference",
    "QueryPredictions",
    "View",
    "VisibleQueries",
    "known_classes",
    "unknown_classes",
]
