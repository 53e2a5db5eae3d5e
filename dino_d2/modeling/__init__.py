from .backbone import TimmBackbone
from .class_loss import FocalClasses, SoftmaxClasses
from .content import IndicatedLabelEmbedding, LabelEmbedding, UnknownLabelEmbedding
from .criterion import SetCriterion
from .decoder import (
    AnchorPosition,
    DeformableDecoder,
    LookForwardOnce,
    LookForwardTwice,
    OwnPosition,
    ScaledAnchorPosition,
)
from .deformable_queries import ObjectnessProposalHead, ReferencePointQueries, TwoStageQueries
from .detector import Detector, DetectorOutput
from .detr import DETR
from .encoder import DeformableEncoder
from .heads import BoxHead, ClassHead, PerLayer
from .matcher import HungarianMatcher
from .neck import ChannelMapper
from .objectness_criterion import ObjectnessCriterion
from .postprocess import BestClasses, TopPairs
from .queries import MixedQuerySelection, PatternQueries, ProposalHead, PureQuerySelection, StaticQueries

__all__ = [
    "DETR",
    "AnchorPosition",
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
    "ObjectnessCriterion",
    "ObjectnessProposalHead",
    "OwnPosition",
    "PatternQueries",
    "PerLayer",
    "ProposalHead",
    "PureQuerySelection",
    "ReferencePointQueries",
    "ScaledAnchorPosition",
    "SetCriterion",
    "SoftmaxClasses",
    "StaticQueries",
    "TimmBackbone",
    "TopPairs",
    "TwoStageQueries",
    "UnknownLabelEmbedding",
]
