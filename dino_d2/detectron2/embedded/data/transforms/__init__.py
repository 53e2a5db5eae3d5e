# SPDX-License-Identifier: Apache-2.0
"""Image transforms and augmentation, as in `detectron2.data.transforms`."""
# ruff: noqa: F401

from fvcore.transforms.transform import (
    BlendTransform,
    CropTransform,
    HFlipTransform,
    NoOpTransform,
    PadTransform,
    Transform,
    TransformList,
    VFlipTransform,
)

from .augmentation import AugInput, Augmentation, AugmentationList
from .augmentation_impl import RandomCrop, RandomFlip, ResizeShortestEdge
from .transform import ResizeTransform
