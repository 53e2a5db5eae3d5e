# SPDX-License-Identifier: Apache-2.0
"""DINO, Swin-L, 5 scales, pre-trained on Objects365 for 26 epochs: 64 GPUs, one image each (appendix D.2)."""

from dino_d2.data.objects365 import iterations
from dino_d2.detectron2.config import LazyCall as L

from ...common.data.objects365 import dataloader
from ...common.optim import optimizer
from ...common.schedule import drop_at
from ...common.train import train
from ..dino_swin_large_5scale_12ep import model

model.detector.num_classes = 365
model.denoising.groups.num_objects = 500  # 500 pairs are the 1000 DN queries of appendix D.2, counted as in Table 7
model.detector.backbone.activation_checkpointing = True
model.detector.encoder.activation_checkpointing = True
model.detector.decoder.activation_checkpointing = True

lr_multiplier = drop_at(24, 26)  # the paper gives the number of epochs alone

train.amp.enabled = True
train.max_iter = L(iterations)(
    epochs=26, datasets="${dataloader.train.dataset.names}", batch_size="${dataloader.train.total_batch_size}"
)
train.eval_period = 20000
