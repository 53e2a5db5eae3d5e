# SPDX-License-Identifier: Apache-2.0
from .neck import ChannelMapper, Projection
from .padded import PaddedBackbone
from .timm_backbone import BackboneError, TimmBackbone

__all__ = ["BackboneError", "ChannelMapper", "PaddedBackbone", "Projection", "TimmBackbone"]
