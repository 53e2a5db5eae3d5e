# SPDX-License-Identifier: Apache-2.0
"""DN-DETR with ResNet-50: denoising on DAB-DETR (DN-DETR section 4)."""

from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import UnknownLabelEmbedding

from .dab_detr_r50 import model

model.detector.label_embedding = L(UnknownLabelEmbedding)(num_classes="${..num_classes}", embed_dim="${..embed_dim}")
model.denoising = L(Denoising)(
    num_classes="${..detector.num_classes}",
    groups=L(FixedGroups)(groups=5),
    label_flip_probability=0.2,  # γ, section 5.1
    centre_noise_scale=0.4,  # λ1
    size_noise_scale=0.4,  # λ2
)
