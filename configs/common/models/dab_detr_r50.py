# SPDX-License-Identifier: Apache-2.0
"""DAB-DETR with ResNet-50 (Liu et al. 2022, section 5 and appendix)."""

from torch import nn

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.layers import SinePositionEncoding
from dino_d2.meta_arch import DETR
from dino_d2.modeling import (
    AnchorBoxQueries,
    BoxHead,
    ClassHead,
    DenseEncoder,
    Detector,
    DynamicAnchorDecoder,
    FocalClasses,
    HungarianMatcher,
    LookForwardTwice,
    PositionScale,
    Projection,
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
        neck=L(Projection)(in_channels={"res5": 2048}, embed_dim="${..embed_dim}"),
        position_encoding=L(SinePositionEncoding)(embed_dim="${..embed_dim}", temperature=20),
        encoder=L(DenseEncoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            feedforward_dim=2048,
            num_heads=8,
            dropout=0.0,
            activation=L(nn.PReLU)(),
            position_scale=L(PositionScale)(embed_dim="${...embed_dim}"),
        ),
        queries=L(AnchorBoxQueries)(num_queries=300, embed_dim="${..embed_dim}"),
        decoder=L(DynamicAnchorDecoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            feedforward_dim=2048,
            num_heads=8,
            dropout=0.0,
            activation=L(nn.PReLU)(),
            box_update=L(LookForwardTwice)(),  # in DAB-DETR's code too; DINO named it later
            class_head=L(ClassHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
            box_head=L(BoxHead)(embed_dim="${...embed_dim}"),
        ),
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(
            class_cost=2.0,
            bbox_cost="${..bbox_weight}",
            giou_cost="${..giou_weight}",
            classes="${..classes}",
        ),
        class_weight=1.0,
        bbox_weight=5.0,
        giou_weight=2.0,
        classes=L(FocalClasses)(alpha=0.25),
    ),
    postprocess=L(TopPairs)(top_k=300),
    pixel_mean=[123.675, 116.28, 103.53],  # ImageNet, RGB
    pixel_std=[58.395, 57.12, 57.375],
)
