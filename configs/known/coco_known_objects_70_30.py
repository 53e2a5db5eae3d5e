# SPDX-License-Identifier: Apache-2.0
"""DN-DETR Table 3 on COCO, split 0.7: DINO's parts with plain denoising of known classes, AP of the unknown ones."""

from dino_d2.data.known import only_classes
from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.meta_arch import KnownClasses, KnownObjectDETR, known_classes, unknown_classes

from ..dino.dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model._target_ = KnownObjectDETR
model.known = L(KnownClasses)(classes=L(known_classes)(num_classes="${model.detector.num_classes}", share=0.7))
model.denoising = L(Denoising)(num_classes="${..detector.num_classes}", groups=L(FixedGroups)(groups=1))

dataloader.evaluator.dataset_name = L(only_classes)(
    dataset="${dataloader.test.dataset.names}",
    classes=L(unknown_classes)(num_classes="${model.detector.num_classes}", share="${model.known.classes.share}"),
)
