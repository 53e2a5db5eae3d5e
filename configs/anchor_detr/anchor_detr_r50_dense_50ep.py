# SPDX-License-Identifier: Apache-2.0
"""Anchor DETR with standard attention instead of row-column attention, ResNet-50, 50 epochs."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import DenseEncoder, PointDecoder, PointPositions

from .anchor_detr_r50_50ep import dataloader, lr_multiplier, model, optimizer, train

model.detector.position_encoding = L(PointPositions)(embed_dim="${..embed_dim}")
model.detector.encoder._target_ = DenseEncoder
model.detector.decoder._target_ = PointDecoder
