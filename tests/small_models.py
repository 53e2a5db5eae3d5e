# SPDX-License-Identifier: Apache-2.0
"""Detectors small enough to run many times a second, and images for them. Their fixtures are in conftest.py."""

import torch

from dino_d2.denoising import ContrastiveDenoising, DynamicGroups
from dino_d2.detectron2.structures import Boxes, Instances
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

DIM, CLASSES, QUERIES = 32, 5, 20


def make_detector(**parts) -> Detector:
    """A two-plus-two-layer DINO with four levels; keyword arguments replace its parts."""
    torch.manual_seed(0)
    sizes = {"embed_dim": DIM, "feedforward_dim": 64, "num_heads": 4, "num_levels": 4, "num_points": 2}
    defaults = {
        "backbone": TimmBackbone(
            "resnet10t",
            pretrained=False,
            freeze_stages=0,
            options={"channels": [16, 32, 48, 64]},
        ),
        "neck": ChannelMapper({"res3": 32, "res4": 48, "res5": 64}, DIM, num_levels=4, norm_groups=8),
        "position_encoding": SinePositionEncoding(DIM),
        "encoder": DeformableEncoder(num_layers=2, **sizes),
        "queries": MixedQuerySelection(ProposalHead(DIM, CLASSES), QUERIES, DIM),
        "decoder": DeformableDecoder(ClassHead(DIM, CLASSES), BoxHead(DIM), LookForwardTwice(), num_layers=2, **sizes),
        "label_embedding": LabelEmbedding(CLASSES, DIM),
    }
    detector = Detector(**(defaults | parts), num_classes=CLASSES, num_levels=4, embed_dim=DIM)
    # Heads that start at zero would hide most mistakes.
    for module in detector.modules():
        if isinstance(module, BoxHead):
            torch.nn.init.normal_(module.layers[-1].weight, std=0.1)
    return detector


def make_model(denoising: bool = True, **parts) -> DETR:
    """The meta-architecture around the small detector; keyword arguments replace the detector's parts."""
    return DETR(
        make_detector(**parts),
        SetCriterion(HungarianMatcher()),
        ContrastiveDenoising(CLASSES, DynamicGroups(6)) if denoising else None,
        postprocess=TopPairs(30),
    )


def make_input(height: int = 96, width: int = 128, objects: int = 2, seed: int = 0) -> dict:
    """One image dict of Detectron2's form, with random pixels and objects."""
    generator = torch.Generator().manual_seed(seed)
    instances = Instances((height, width))
    corner = torch.rand(objects, 2, generator=generator) * 0.5
    size = torch.rand(objects, 2, generator=generator) * 0.4 + 0.1
    scale = torch.tensor([width, height, width, height])
    instances.gt_boxes = Boxes(torch.cat([corner, corner + size], dim=1) * scale)
    instances.gt_classes = torch.randint(CLASSES, (objects,), generator=generator)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": image, "instances": instances, "image_id": seed, "height": height, "width": width}
