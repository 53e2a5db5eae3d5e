# SPDX-License-Identifier: Apache-2.0
from .attention import CrossAttention, SelfAttention
from .autocast import autocast_is_on
from .boxes import box_area, cxcywh_to_xyxy, generalized_iou, inverse_sigmoid, xyxy_to_cxcywh
from .conditional_attention import (
    ConditionalCrossAttention,
    ConditionalSelfAttention,
    FirstConditionalCrossAttention,
    PositionScale,
    SizeModulation,
)
from .feed_forward import FeedForward
from .mlp import MLP, LinearStack
from .ms_deform_attn import MultiScaleDeformableAttention, ms_deform_attn
from .point_position_encoding import PointPositions, RowColumnPositions
from .position_encoding import SinePositionEncoding, anchor_embedding, sine_embedding
from .recompute import recomputed
from .row_column_attention import RowColumnAttention

__all__ = [
    "MLP",
    "ConditionalCrossAttention",
    "ConditionalSelfAttention",
    "CrossAttention",
    "FeedForward",
    "FirstConditionalCrossAttention",
    "LinearStack",
    "MultiScaleDeformableAttention",
    "PointPositions",
    "PositionScale",
    "RowColumnAttention",
    "RowColumnPositions",
    "SelfAttention",
    "SinePositionEncoding",
    "SizeModulation",
    "anchor_embedding",
    "autocast_is_on",
    "box_area",
    "cxcywh_to_xyxy",
    "generalized_iou",
    "inverse_sigmoid",
    "ms_deform_attn",
    "recomputed",
    "sine_embedding",
    "xyxy_to_cxcywh",
]
