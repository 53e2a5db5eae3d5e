# SPDX-License-Identifier: Apache-2.0
from .conditional import ConditionalDecoder
from .deformable import DeformableDecoder
from .dense import DenseDecoder
from .dynamic_anchors import DynamicAnchorDecoder
from .multi_scale import MultiScaleAnchorDecoder
from .points import PointDecoder, RowColumnPointDecoder
from .query_position import AnchorPosition, OwnPosition, ScaledAnchorPosition
from .refinement import LookForwardOnce, LookForwardTwice

__all__ = [
    "AnchorPosition",
    "ConditionalDecoder",
    "DeformableDecoder",
    "DenseDecoder",
    "DynamicAnchorDecoder",
    "LookForwardOnce",
    "LookForwardTwice",
    "MultiScaleAnchorDecoder",
    "OwnPosition",
    "PointDecoder",
    "RowColumnPointDecoder",
    "ScaledAnchorPosition",
]
