# SPDX-License-Identifier: Apache-2.0
"""DINO Table 4, row 5: mixed selection and look forward twice, plain denoising; 47.4 AP."""

from dino_d2.denoising import Denoising, DynamicGroups
from dino_d2.detectron2.config import LazyCall as L

from ..dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

model.denoising = L(Denoising)(
    num_classes="${..detector.num_classes}",
    groups=L(DynamicGroups)(num_objects=100),  # without negatives
    label_flip_probability=0.2,  # noise as in DN-DETR, section 5.1
    centre_noise_scale=0.4,
    size_noise_scale=0.4,
)
