from .backbone import TimmBackbone
from .content import IndicatedLabelEmbedding, LabelEmbedding, UnknownLabelEmbedding
from .criterion import SetCriterion
from .decoder import DeformableDecoder, LookForwardOnce, LookForwardTwice
from .detector import Detector, DetectorOutput
from .detr import DETR
from .encoder import DeformableEncoder
from .heads import BoxHead, ClassHead, PerLayer
from .matcher import HungarianMatcher
from .neck import ChannelMapper
from .queries import MixedQuerySelection, ProposalHead, PureQuerySelection, StaticQueries

__all__ = [
    "DETR",
    "BoxHead",
    "ChannelMapper",
    "ClassHead",
    "DeformableDecoder",
    "DeformableEncoder",
    "Detector",
    "DetectorOutput",
    "HungarianMatcher",
    "IndicatedLabelEmbedding",
    "LabelEmbedding",
    "LookForwardOnce",
    "LookForwardTwice",
    "MixedQuerySelection",
    "PerLayer",
    "ProposalHead",
    "PureQuerySelection",
    "SetCriterion",
    "StaticQueries",
    "TimmBackbone",
    "UnknownLabelEmbedding",
]
