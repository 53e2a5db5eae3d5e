# SPDX-License-Identifier: Apache-2.0
"""DN-DETR Table 4 on COCO: fine-tunes a trained detector for 10 epochs to find the objects of a given class.

--config-file ... train.init_checkpoint=dino_r50_4scale_12ep.pth     the paper's other row: train.max_iter=7500
"""

from dino_d2.data.known import KnownLabelsMapper
from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.meta_arch import KnownLabelDETR

from ..dino.dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model._target_ = KnownLabelDETR
model.denoising = L(Denoising)(num_classes="${..detector.num_classes}", groups=L(FixedGroups)(groups=1))
dataloader.test.mapper._target_ = KnownLabelsMapper

train.max_iter = 75000  # 10 epochs of 7500 iterations of 16 images
