# SPDX-License-Identifier: Apache-2.0
"""Test-time augmentation (DINO appendix A): the flipped image, and two larger scales with and without the flip.

In a recipe: `from ..common.tta import tta` and `model.inference = tta`. The paper names no scales and weights.
"""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.meta_arch import OneToOneEnsemble, View

tta = L(OneToOneEnsemble)(
    weight=1.0,  # of the original image
    views=[
        L(View)(flip=True, weight=1.0),
        L(View)(scale=1.25, weight=0.5),
        L(View)(scale=1.25, flip=True, weight=0.5),
        L(View)(scale=1.5, weight=0.5),
        L(View)(scale=1.5, flip=True, weight=0.5),
    ],
    iou_threshold=0.7,
)
