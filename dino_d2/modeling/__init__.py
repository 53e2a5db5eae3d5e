from .backbone import TimmBackbone
from .class_loss import FocalClasses, SoftmaxClasses
from .content import IndicatedLabelEmbedding, LabelEmbedding, UnknownLabelEmbedding
from .criterion import SetCriterion
from .decoder import DeformableDecoder, LookForwardOnce, LookForwardTwice
from .detector import Detector, DetectorOutput
from .detr import DETR
from .encoder import DeformableEncoder
from .heads import BoxHead, ClassHead, PerLayer
from .matcher import HungarianMatcher
from .neck import ChannelMapper
from .postprocess import BestClasses, TopPairs
from .queries import MixedQuerySelection, ProposalHead, PureQuerySelection, StaticQueries

__all__ = [
    "DETR",
    "BestClasses",
    "BoxHead",
    "ChannelMapper",
    "ClassHead",
    "DeformableDecoder",
    "DeformableEncoder",
    "Detector",
    "DetectorOutput",
    "FocalClasses",
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
    "SoftmaxClasses",
    "StaticQueries",
    "TimmBackbone",
    "TopPairs",
    "UnknownLabelEmbedding",
]
