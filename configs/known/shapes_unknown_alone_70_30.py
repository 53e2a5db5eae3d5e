# SPDX-License-Identifier: Apache-2.0
"""DN-DETR Table 3 on shapes, split 0.7: the baseline row, trained on the unknown classes only, without denoising."""

from dino_d2.data.known import only_classes
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.meta_arch import unknown_classes

from ..dino.dino_tiny_shapes import dataloader, lr_multiplier, model, optimizer, train

model.denoising = None
model.detector.label_embedding = None

dataloader.evaluator.dataset_name = L(only_classes)(
    dataset="${dataloader.test.dataset.names}",
    classes=L(unknown_classes)(num_classes="${model.detector.num_classes}", share=0.7),
)
dataloader.train.dataset.names = L(only_classes)(
    dataset=dataloader.train.dataset.names, classes="${dataloader.evaluator.dataset_name.classes}"
)
dataloader.test.dataset.names.root = "${....train.dataset.names.dataset.root}"
