# SPDX-License-Identifier: Apache-2.0
"""DN-Deformable-DETR: denoising on DAB-DETR with a deformable encoder, ResNet-50 (DN-DETR sections 4.5, 4.6)."""

from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import UnknownLabelEmbedding

from .dab_deformable_encoder_r50 import model

model.detector.label_embedding = L(UnknownLabelEmbedding)(num_classes="${..num_classes}", embed_dim="${..embed_dim}")
model.denoising = L(Denoising)(
    num_classes="${..detector.num_classes}",
    groups=L(FixedGroups)(groups=10),  # the paper's implementation details; the authors' code takes 5 by default
    label_flip_probability=0.2,  # γ, section 5.1
    centre_noise_scale=0.4,  # λ1
    size_noise_scale=0.4,  # λ2
)
