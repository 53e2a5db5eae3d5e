# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR with ResNet-50 and four scales (arXiv 2010.04159, appendix A.4)."""

import torch.nn as nn

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.layers import SinePositionEncoding
from dino_d2.meta_arch import DETR
from dino_d2.modeling import (
    BoxHead,
    ChannelMapper,
    ClassHead,
    DeformableDecoder,
    DeformableEncoder,
    Detector,
    HungarianMatcher,
    OwnPosition,
    ReferencePointQueries,
    SetCriterion,
    TimmBackbone,
    TopPairs,
)

model = L(DETR)(
    detector=L(Detector)(
        num_classes=80,
        embed_dim=256,
        num_levels=4,
        backbone=L(TimmBackbone)(
            name="resnet50.tv_in1k",  # torchvision's weights, as the authors use
            out_features=["res3", "res4", "res5"],
            pretrained=True,
            freeze_stages=1,  # stem and res2
        ),
        neck=L(ChannelMapper)(
            in_channels={"res3": 512, "res4": 1024, "res5": 2048},
            embed_dim="${..embed_dim}",
            num_levels="${..num_levels}",
        ),
        position_encoding=L(SinePositionEncoding)(embed_dim="${..embed_dim}", temperature=10000, offset=-0.5),
        encoder=L(DeformableEncoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            feedforward_dim=1024,
            num_heads=8,
            num_levels="${..num_levels}",
            num_points=4,
            dropout=0.1,
        ),
        queries=L(ReferencePointQueries)(num_queries=300, embed_dim="${..embed_dim}"),
        decoder=L(DeformableDecoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            feedforward_dim=1024,
            num_heads=8,
            num_levels="${..num_levels}",
            num_points=4,
            dropout=0.1,
            box_update=None,
            position_head=L(OwnPosition)(),
            norm=L(nn.Identity)(),
            anchor_eps=1e-5,
            class_head=L(ClassHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
            box_head=L(BoxHead)(embed_dim="${...embed_dim}", size=-2.0),
        ),
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            class_cost=2.0,
            bbox_cost="${..bbox_weight}",
            giou_cost="${..giou_weight}",
            giou_eps="${..giou_eps}",
        ),
        class_weight=2.0,
        bbox_weight=5.0,
        giou_weight=2.0,
        giou_eps=0.0,
    ),
    pixel_mean=[123.675, 116.28, 103.53],  # ImageNet, RGB
    pixel_std=[58.395, 57.12, 57.375],
    postprocess=L(TopPairs)(top_k=100),
)
