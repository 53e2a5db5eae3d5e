# SPDX-License-Identifier: Apache-2.0
"""Progressive inference: random objects are known in training; the best detection becomes known, step by step."""

from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.meta_arch import KnownAtRandom, KnownObjectDETR, ProgressiveInference

from ..dino.dino_tiny_shapes import dataloader, lr_multiplier, model, optimizer, train

model._target_ = KnownObjectDETR
model.known = L(KnownAtRandom)()
model.denoising = L(Denoising)(num_classes="${..detector.num_classes}", groups=L(FixedGroups)(groups=1))
model.inference = L(ProgressiveInference)(steps=5, score_threshold=0.5)  # model.inference=null detects in one pass
