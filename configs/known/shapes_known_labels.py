# SPDX-License-Identifier: Apache-2.0
"""DN-DETR Table 4 on shapes: fine-tunes a trained model to find the objects of a given class.

--config-file ... train.init_checkpoint=output/dino_tiny_shapes/model_final.pth
"""

from dino_d2.data.known import KnownLabelsMapper
from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.meta_arch import KnownLabelDETR

from ..dino.dino_tiny_shapes import dataloader, lr_multiplier, model, optimizer, train

model._target_ = KnownLabelDETR
model.denoising = L(Denoising)(num_classes="${..detector.num_classes}", groups=L(FixedGroups)(groups=1))
dataloader.test.mapper._target_ = KnownLabelsMapper

optimizer.lr = 2e-4
train.max_iter = 1250  # 10 epochs
train.eval_period = 125
