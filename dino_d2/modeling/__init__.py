from .anchor_box_queries import AnchorBoxQueries, PatternBoxQueries
from .backbone import TimmBackbone
from .class_loss import FocalClasses, SoftmaxClasses
from .conditional_attention import PositionScale, SizeModulation
from .conditional_decoder import ConditionalDecoder, DynamicAnchorDecoder
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
from .dense_decoder import DenseDecoder
from .dense_encoder import DenseEncoder
from .detector import Detector, DetectorOutput
from .detr import DETR
from .embedded_queries import DenoisedEmbeddedQueries, EmbeddedQueries
from .encoder import DeformableEncoder
from .heads import BoxHead, ClassHead, PerLayer, SoftmaxClassHead
from .inference import for_inference
from .matcher import HungarianMatcher
from .multi_scale_decoder import MultiScaleAnchorDecoder
from .neck import ChannelMapper, Projection
from .objectness_criterion import ObjectnessCriterion
from .point_detector import (
    GridPointQueries,
    PointDecoder,
    PointDetector,
    PointPositions,
    PointQueries,
    RowColumnPointDecoder,
    RowColumnPositions,
)
from .postprocess import BestClasses, TopPairs
from .queries import MixedQuerySelection, PatternQueries, ProposalHead, PureQuerySelection, StaticQueries
from .row_column_attention import RowColumnEncoder
from .tta import OneToOneEnsemble, View

__all__ = [
    "DETR",
    "AnchorBoxQueries",
    "AnchorPosition",
    "BestClasses",
    "BoxHead",
    "ChannelMapper",
    "ClassHead",
    "ConditionalDecoder",
    "DeformableDecoder",
    "DeformableEncoder",
    "DenoisedEmbeddedQueries",
    "DenseDecoder",
    "DenseEncoder",
    "Detector",
    "DetectorOutput",
    "DynamicAnchorDecoder",
    "EmbeddedQueries",
    "FocalClasses",
    "GridPointQueries",
    "HungarianMatcher",
    "IndicatedLabelEmbedding",
    "LabelEmbedding",
    "LookForwardOnce",
    "LookForwardTwice",
    "MixedQuerySelection",
    "MultiScaleAnchorDecoder",
    "ObjectnessCriterion",
    "ObjectnessProposalHead",
    "OneToOneEnsemble",
    "OwnPosition",
    "PatternBoxQueries",
    "PatternQueries",
    "PerLayer",
    "PointDecoder",
    "PointDetector",
    "PointPositions",
    "PointQueries",
    "PositionScale",
    "Projection",
    "ProposalHead",
    "PureQuerySelection",
    "ReferencePointQueries",
    "RowColumnEncoder",
    "RowColumnPointDecoder",
    "RowColumnPositions",
    "ScaledAnchorPosition",
    "SetCriterion",
    "SizeModulation",
    "SoftmaxClassHead",
    "SoftmaxClasses",
    "StaticQueries",
    "TimmBackbone",
    "TopPairs",
    "TwoStageQueries",
    "UnknownLabelEmbedding",
    "View",
    "for_inference",
]
