# SPDX-License-Identifier: Apache-2.0
"""A small DINO for any COCO-format folder: a first look at own data on a laptop's CPU.

    data.root=... or data.train.json=... data.train.images=... data.val.json=... data.val.images=...

The number of classes is read from the training json.
"""

from dino_d2.data.coco_format import num_classes
from dino_d2.detectron2.config import LazyCall as L

from ..common.data.custom import data, dataloader
from ..common.optim import optimizer
from ..common.schedule import drop_at
from ..common.train import train
from .dino_tiny_shapes import model

model.detector.num_classes = L(num_classes)(dataset="${dataloader.train.dataset.names}")
model.detector.embed_dim = 128
model.detector.backbone.update(
    name="resnet18",
    pretrained=True,
    freeze_stages=1,
    freeze_batch_norm=True,
    options={},
)
model.detector.neck.in_channels = {"res3": 128, "res4": 256, "res5": 512}
model.detector.encoder.num_heads = 8
model.detector.queries.num_queries = 100
model.detector.decoder.num_heads = 8
model.denoising.groups.num_objects = 50

# Less than half the size DINO sees: shorter side 256 to 352, longer side at most 480.
dataloader.train.mapper.augmentations.update(
    short_edge_lengths=[256, 288, 320, 352], max_size=480, crop_short_edge_lengths=[200, 250, 300], crop_size=[192, 300]
)
dataloader.test.mapper.augmentations.update(short_edge_length=320, max_size=480)
dataloader.train.total_batch_size = 4

optimizer.lr = 2e-4
lr_multiplier = drop_at(80, 100, warmup=0.03)

train.max_iter = 2000
train.eval_period = 500
train.checkpointer.period = 500
train.best = "bbox/AP"  # model_best.pth
train.early_stopping.patience = 5  # evaluations; ends longer runs, with train.max_iter=10000 for example
