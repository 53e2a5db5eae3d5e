# SPDX-License-Identifier: Apache-2.0
"""DINO 4-scale, 12 epochs, with Detectron2's ResNet-50 in place of timm's: the same network from the same weights.

Needs Detectron2 (docs/detectron2.md).
"""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.modeling.backbone import BasicStem, ResNet

from ..dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone = L(ResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
    stages=L(ResNet.make_default_stages)(
        depth=50,
        stride_in_1x1=False,  # as in torchvision; Detectron2's default is that of the original Caffe model
        norm="FrozenBN",
    ),
    out_features=["res3", "res4", "res5"],
    freeze_at=2,  # stem and res2, what freeze_stages=1 says of timm's
)

train.init_checkpoint = "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
