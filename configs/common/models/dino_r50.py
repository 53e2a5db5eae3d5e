# SPDX-License-Identifier: Apache-2.0
"""DINO with ResNet-50 and four scales (the paper's Figure 2, Table 8)."""

from dino_d2.denoising import ContrastiveDenoising, DynamicGroups
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
    LabelEmbedding,
    LookForwardTwice,
    MixedQuerySelection,
    ProposalHead,
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
        position_encoding=L(SinePositionEncoding)(
            embed_dim="${..embed_dim}",
            temperature=20,  # pe_temperature
        ),
        encoder=L(DeformableEncoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            feedforward_dim=2048,
            num_heads=8,
            num_levels="${..num_levels}",
            num_points=4,
            dropout=0.0,
        ),
        queries=L(MixedQuerySelection)(  # section 3.4
            num_queries=900,
            embed_dim="${..embed_dim}",
            proposal_head=L(ProposalHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
        ),
        decoder=L(DeformableDecoder)(
            num_layers=6,
            embed_dim="${..embed_dim}",
            feedforward_dim=2048,
            num_heads=8,
            num_levels="${..num_levels}",
            num_points=4,
            dropout=0.0,
            box_update=L(LookForwardTwice)(),  # section 3.5
            class_head=L(ClassHead)(embed_dim="${...embed_dim}", num_classes="${...num_classes}"),
            box_head=L(BoxHead)(embed_dim="${...embed_dim}"),
        ),
        label_embedding=L(LabelEmbedding)(num_classes="${..num_classes}", embed_dim="${..embed_dim}"),
    ),
    denoising=L(ContrastiveDenoising)(  # section 3.3
        num_classes="${..detector.num_classes}",
        groups=L(DynamicGroups)(num_objects=100),  # 100 CDN pairs, section D.3
        label_flip_probability=0.25,  # the released code halves dn_label_noise_ratio, which is 0.5
        positive_noise_scale=1.0,  # λ1 in section D.3 and the released commands; Table 8 has 0.4
        negative_noise_scale=2.0,  # λ2
    ),
    criterion=L(SetCriterion)(
        matcher=L(HungarianMatcher)(class_cost=2.0, bbox_cost="${..bbox_weight}", giou_cost="${..giou_weight}"),
        class_weight=1.0,  # Table 8, as the weights below and the matcher's class_cost
        bbox_weight=5.0,
        giou_weight=2.0,
    ),
    pixel_mean=[123.675, 116.28, 103.53],  # ImageNet, RGB
    pixel_std=[58.395, 57.12, 57.375],
    postprocess=L(TopPairs)(top_k=300),
)
