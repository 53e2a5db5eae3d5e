# SPDX-License-Identifier: Apache-2.0
from .class_loss import FocalClasses, SoftmaxClasses
from .criterion import SetCriterion
from .matcher import HungarianMatcher
from .matches import Matches
from .objectness import ObjectnessCriterion

__all__ = [
    "FocalClasses",
    "HungarianMatcher",
    "Matches",
    "ObjectnessCriterion",
    "SetCriterion",
    "SoftmaxClasses",
]
