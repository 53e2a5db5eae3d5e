# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR with ResNet-50 and row-column decoupled attention (Wang et al. 2022, section 4.1)."""

from torch import nn

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.meta_arch import DETR
from dino_d2.modeling import (
    BoxHead,
    ChannelMapper,
    ClassHead,
    Detector,
    FocalClasses,
    HungarianMatcher,
    PointQueries,
    RowColumnEncoder,
    RowColumnPointDecoder,
    RowColumnPositions,
    SetCriterion,
    TimmBackbone,
    TopPairs,
)

model = L(DETR)(
    detector=L(Detector)(
        num_classes=80,
        embed_dim=256,
        num_levels=None,  # one level
        backbone=L(TimmBackbone)(
            name="resnet50.tv_in1k",  # torchvision's weights, as the authors use
            out_features=["res5"],
            pretrained=True,
            freeze_stages=1,  # stem and res2
            options=dict(output_stride=32),  # 16 for DC5
        ),
        neck=L(ChannelMapper)(in_channels={"res5": 2048}, embed_dim="${..embed_dim}", num_levels=1),
        position_encoding=L(RowColumnPositions)(embed_dim="${..embed_dim}"),
        encoder=L(RowColumnEncoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            feedforward_dim=1024,
            num_heads=8,
            dropout=0.0,
        ),
        queries=L(PointQueries)(num_points=300, num_patterns=3, embed_dim="${..embed_dim}"),
        decoder=L(RowColumnPointDecoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            feedforward_dim=1024,
            num_heads=8,
            dropout=0.0,
            norm=L(nn.Identity)(),
            class_head=L(ClassHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
            box_head=L(BoxHead)(embed_dim="${...embed_dim}", size=-2.0),
        ),
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            class_cost=2.0,
            bbox_cost="${..bbox_weight}",
            giou_cost="${..giou_weight}",
            classes="${..classes}",
            giou_eps="${..giou_eps}",
        ),
        class_weight=2.0,
        bbox_weight=5.0,
        giou_weight=2.0,
        classes=L(FocalClasses)(alpha=0.25),
        giou_eps=0.0,
    ),
    postprocess=L(TopPairs)(top_k=100),
    pixel_mean=[123.675, 116.28, 103.53],  # ImageNet, RGB
    pixel_std=[58.395, 57.12, 57.375],
)
