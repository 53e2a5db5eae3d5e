# SPDX-License-Identifier: Apache-2.0
"""A small DINO on the generated shapes: trains on a laptop's CPU in minutes.

The paper's method at a small size: four scales, mixed selection, look forward twice, contrastive denoising.
"""

from ..common.data.shapes import dataloader
from ..common.models.dino_r50 import model
from ..common.optim import optimizer
from ..common.schedule import drop_at
from ..common.train import train

model.detector.num_classes = 5
model.detector.embed_dim = 96
model.detector.backbone.update(
    name="resnet10t",
    pretrained=False,
    freeze_stages=0,
    freeze_batch_norm=False,  # from random weights, batch norm must learn its statistics
    options=dict(channels=[32, 64, 128, 256]),
)
model.detector.neck.in_channels = {"res3": 64, "res4": 128, "res5": 256}
model.detector.encoder.update(num_layers=2, feedforward_dim=256, num_heads=6)
model.detector.queries.num_queries = 50
model.detector.decoder.update(num_layers=3, feedforward_dim=256, num_heads=6)

model.denoising.groups.num_objects = 60  # many for 50 queries: they are cheap, and train the boxes soonest
model.postprocess.top_k = 100

optimizer.lr = 1e-3
optimizer.params.lr_factor_func.factors = {}  # nothing is pretrained, so everything learns at one rate
lr_multiplier = drop_at(75, 100, warmup=0.03)

train.max_iter = 2000
train.eval_period = 1000
train.checkpointer.period = 500
