# SPDX-License-Identifier: Apache-2.0
"""Building registered models, as in `detectron2.modeling.meta_arch.build`."""

import torch
from torch import nn

from ...config import CfgNode
from ...utils.registry import Registry

META_ARCH_REGISTRY = Registry("META_ARCH")


def build_model(cfg: CfgNode) -> nn.Module:
    """Build the model registered as `cfg.MODEL.META_ARCHITECTURE`, without loading weights, on `cfg.MODEL.DEVICE`."""
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    return model.to(torch.device(cfg.MODEL.DEVICE))
