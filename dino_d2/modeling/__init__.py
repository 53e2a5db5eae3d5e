# SPDX-License-Identifier: Apache-2.0
"""The tensor core: maps images to predictions and losses. It needs PyTorch, timm and ``dino_d2.layers``.

Read the files in the order of the data: ``detector.py``, ``backbone/``, ``encoder/``, ``queries/``, ``decoder/``,
``losses/``, ``postprocess.py``.
"""

import importlib
from typing import Any

from dino_d2.layers import PointPositions, PositionScale, RowColumnPositions, SizeModulation

from .backbone import BackboneError, ChannelMapper, PaddedBackbone, Projection, TimmBackbone
from .contracts import DecoderInputs, DetectorOutput, LayerPredictions, Proposals, Queries
from .decoder import (
    AnchorPosition,
    ConditionalDecoder,
    DeformableDecoder,
    DenseDecoder,
    DynamicAnchorDecoder,
    LookForwardOnce,
    LookForwardTwice,
    MultiScaleAnchorDecoder,
    OwnPosition,
    PointDecoder,
    RowColumnPointDecoder,
    ScaledAnchorPosition,
)
from .detector import Detector
from .encoder import DeformableEncoder, DenseEncoder, RowColumnEncoder
from .heads import BoxHead, ClassHead, PerLayer, SoftmaxClassHead
from .losses import FocalClasses, HungarianMatcher, ObjectnessCriterion, SetCriterion, SoftmaxClasses
from .postprocess import BestClasses, TopPairs
from .queries import (
    AnchorBoxQueries,
    DenoisedEmbeddedQueries,
    EmbeddedQueries,
    GridPointQueries,
    IndicatedLabelEmbedding,
    LabelEmbedding,
    MixedQuerySelection,
    ObjectnessProposalHead,
    PatternBoxQueries,
    PatternQueries,
    PointQueries,
    ProposalHead,
    PureQuerySelection,
    ReferencePointQueries,
    StaticQueries,
    TwoStageQueries,
    UnknownLabelEmbedding,
)

#: Names that earlier development versions exported here; a saved config.yaml may still use them.
_MOVED = {
    "DETR": "dino_d2.meta_arch",
    "OneToOneEnsemble": "dino_d2.meta_arch",
    "View": "dino_d2.meta_arch",
    "for_inference": "dino_d2.speed",
    "known": "dino_d2.meta_arch",
}


def __getattr__(name: str) -> Any:
    if name == "PointDetector":  # its only difference, the queries' positions, now comes from PointQueries
        return Detector
    if name in _MOVED:
        module = importlib.import_module(_MOVED[name])
        return module if name == "known" else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AnchorBoxQueries",
    "AnchorPosition",
    "BackboneError",
    "BestClasses",
    "BoxHead",
    "ChannelMapper",
    "ClassHead",
    "ConditionalDecoder",
    "DecoderInputs",
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
    "LayerPredictions",
    "LookForwardOnce",
    "LookForwardTwice",
    "MixedQuerySelection",
    "MultiScaleAnchorDecoder",
    "ObjectnessCriterion",
    "ObjectnessProposalHead",
    "OwnPosition",
    "PaddedBackbone",
    "PatternBoxQueries",
    "PatternQueries",
    "PerLayer",
    "PointDecoder",
    "PointPositions",
    "PointQueries",
    "PositionScale",
    "Projection",
    "ProposalHead",
    "Proposals",
    "PureQuerySelection",
    "Queries",
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
]
