# SPDX-License-Identifier: Apache-2.0
"""DINO with Swin-L and four scales (the paper's Tables 3 and 5)."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import TimmBackbone

from .dino_r50 import model

model.detector.backbone = L(TimmBackbone)(
    name="swin_large_patch4_window12_384.ms_in22k",  # ImageNet-22k at 384 × 384
    out_features=["res3", "res4", "res5"],
    pretrained=True,
    freeze_stages=0,
    freeze_batch_norm=False,  # Swin has no batch norm
    norm_outputs=True,
    options=dict(
        drop_path_rate=0.2,
        strict_img_size=False,
        always_partition=True,  # partition small maps into full windows too, as in pretraining
    ),
)
model.detector.neck.in_channels = {"res3": 384, "res4": 768, "res5": 1536}
