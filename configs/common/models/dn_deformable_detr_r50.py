# SPDX-License-Identifier: Apache-2.0
"""DN-Deformable-DETR++ with ResNet-50: denoising on DAB-Deformable-DETR (DN-DETR sections 4.5 and 4.6)."""

from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import IndicatedLabelEmbedding

from .dab_deformable_detr_r50 import model

model.detector.label_embedding = L(IndicatedLabelEmbedding)(num_classes="${..num_classes}", embed_dim="${..embed_dim}")
model.detector.queries.embed_dim = 255  # the indicator is the last channel of the content
model.denoising = L(Denoising)(
    num_classes="${..detector.num_classes}",
    groups=L(FixedGroups)(groups=5),
    label_flip_probability=0.2,  # γ, section 5.1
    centre_noise_scale=0.4,  # λ1
    size_noise_scale=0.4,  # λ2
)
