from .attention import CrossAttention, SelfAttention
from .boxes import box_area, cxcywh_to_xyxy, generalized_iou, inverse_sigmoid, xyxy_to_cxcywh
from .linear import Linear, feed_forward, linear
from .mlp import MLP
from .ms_deform_attn import MultiScaleDeformableAttention, ms_deform_attn
from .position_encoding import SinePositionEncoding, anchor_embedding, sine_embedding
from .recompute import recomputed

__all__ = [
    "MLP",
    "CrossAttention",
    "Linear",
    "MultiScaleDeformableAttention",
    "SelfAttention",
    "SinePositionEncoding",
    "anchor_embedding",
    "box_area",
    "cxcywh_to_xyxy",
    "feed_forward",
    "generalized_iou",
    "inverse_sigmoid",
    "linear",
    "ms_deform_attn",
    "recomputed",
    "sine_embedding",
    "xyxy_to_cxcywh",
]
