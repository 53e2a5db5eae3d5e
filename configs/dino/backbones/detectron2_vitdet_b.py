# SPDX-License-Identifier: Apache-2.0
"""DINO 4-scale, 12 epochs, on ViTDet's simple feature pyramid of a ViT-B. Needs Detectron2 (docs/detectron2.md)."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.modeling.backbone import SimpleFeaturePyramid, ViT
from dino_d2.modeling.backbone.padded import PaddedBackbone

from ..dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.backbone = L(PaddedBackbone)(
    backbone=L(SimpleFeaturePyramid)(
        net=L(ViT)(
            img_size=1024,
            patch_size=16,
            embed_dim=768,
            depth=12,
            num_heads=12,
            drop_path_rate=0.1,
            window_size=14,
            window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10],  # blocks 2, 5, 8 and 11 see the whole image
            use_rel_pos=True,
        ),
        in_feature="last_feat",
        out_channels=256,
        scale_factors=[2.0, 1.0, 0.5],  # p3, p4, p5 of strides 8, 16, 32
        norm="LN",
    ),
    multiple=32,
)
model.detector.neck.in_channels = {"p3": 256, "p4": 256, "p5": 256}

train.init_checkpoint = "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
