# SPDX-License-Identifier: Apache-2.0
"""LazyConfig and the small part of the yacs config that `DefaultPredictor` needs, as in `detectron2.config`."""

from .config import CfgNode, get_cfg
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig

__all__ = ["CfgNode", "LazyCall", "LazyConfig", "get_cfg", "instantiate"]
