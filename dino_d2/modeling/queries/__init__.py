# SPDX-License-Identifier: Apache-2.0
from .anchor_boxes import AnchorBoxQueries, PatternBoxQueries
from .base import AnchorQueries, BaseQueries, repeat_for_patterns, take
from .content import IndicatedLabelEmbedding, LabelEmbedding, UnknownLabelEmbedding
from .deformable import ReferencePointQueries, TwoStageQueries
from .embedded import DenoisedEmbeddedQueries, EmbeddedQueries
from .points import GridPointQueries, PointQueries
from .proposals import ObjectnessProposalHead, ProposalHead
from .selection import MixedQuerySelection, PatternQueries, PureQuerySelection, StaticQueries

__all__ = [
    "AnchorBoxQueries",
    "AnchorQueries",
    "BaseQueries",
    "DenoisedEmbeddedQueries",
    "EmbeddedQueries",
    "GridPointQueries",
    "IndicatedLabelEmbedding",
    "LabelEmbedding",
    "MixedQuerySelection",
    "ObjectnessProposalHead",
    "PatternBoxQueries",
    "PatternQueries",
    "PointQueries",
    "ProposalHead",
    "PureQuerySelection",
    "ReferencePointQueries",
    "StaticQueries",
    "TwoStageQueries",
    "UnknownLabelEmbedding",
    "repeat_for_patterns",
    "take",
]
