# SPDX-License-Identifier: Apache-2.0
"""DINO 4-scale, 12 epochs, with Detectron2's Swin-B. Needs Detectron2 (docs/detectron2.md)."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.modeling.backbone import SwinTransformer

from ..dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone = L(SwinTransformer)(
    embed_dim=128,
    depths=[2, 2, 18, 2],
    num_heads=[4, 8, 16, 32],
    drop_path_rate=0.2,
    out_indices=[1, 2, 3],  # p1, p2, p3 of strides 8, 16, 32
)
model.detector.neck.in_channels = {"p1": 256, "p2": 512, "p3": 1024}

train.init_checkpoint = "detectron2://ImageNetPretrained/swin/swin_base_patch4_window7_224_22k.pth"
