# SPDX-License-Identifier: Apache-2.0
from .families import BackboneError
from .neck import ChannelMapper, Projection
from .padded import PaddedBackbone
from .timm_backbone import TimmBackbone

__all__ = ["BackboneError", "ChannelMapper", "PaddedBackbone", "Projection", "TimmBackbone"]
