# SPDX-License-Identifier: Apache-2.0
"""LazyConfig and the keys of the yacs config that `DefaultPredictor` uses, as in `detectron2.config`."""
# ruff: noqa: F401

from .config import CfgNode, get_cfg
from .instantiate import instantiate
from .lazy import LazyCall, LazyConfig
