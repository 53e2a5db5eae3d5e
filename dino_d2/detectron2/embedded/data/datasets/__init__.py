# SPDX-License-Identifier: Apache-2.0
"""Dataset formats and the names that are registered from the start, as in `detectron2.data.datasets`."""

from . import builtin
from .coco import convert_to_coco_json, load_coco_json, register_coco_instances

__all__ = ["builtin", "convert_to_coco_json", "load_coco_json", "register_coco_instances"]
