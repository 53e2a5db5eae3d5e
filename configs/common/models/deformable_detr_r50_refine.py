# SPDX-License-Identifier: Apache-2.0
"""Deformable DETR with iterative bounding box refinement (section 4.2): each layer has its own heads."""

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.modeling import BoxHead, ClassHead, LookForwardOnce, PerLayer

from .deformable_detr_r50 import model

model.detector.decoder.update(
    box_update=L(LookForwardOnce)(),
    class_head=L(PerLayer)(
        head=L(ClassHead)(embed_dim="${....embed_dim}", num_classes="${....num_classes}"),
        num_layers="${..num_layers}",
    ),
    box_head=L(PerLayer)(
        head=L(BoxHead)(embed_dim="${....embed_dim}"),
        num_layers="${..num_layers}",
        first=L(BoxHead)(embed_dim="${....embed_dim}", size=-2.0),  # its anchors are points without a size
    ),
)
