# SPDX-License-Identifier: Apache-2.0
"""A small DINO that learns a dataset of your own from random weights, on a CPU or any GPU (docs/custom_data.md).

    data.root=... or data.train.json=... data.train.images=... data.val.json=... data.val.images=...

Image size, length of the run and intervals are computed from the images, their boxes and the device
(dino_d2/data/sizing.py), the learning rate from the batch size. All keys are those of `dino_r50_4scale_custom`.
"""

import torch

from dino_d2.data.augmentation import flip_and_resize
from dino_d2.data.coco_format import num_classes
from dino_d2.data.sizing import suited_epochs, suited_image_size
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.engine.optim import rate_for_batch

from ..common.data.custom import data, dataloader
from ..common.optim import optimizer
from ..common.schedule import drop_at, in_epochs
from ..common.train import train
from .dino_tiny_shapes import model

model.detector.num_classes = L(num_classes)(dataset="${dataloader.train.dataset.names}")
model.detector.queries.num_queries = 100  # 50 are enough for the generated shapes alone
# These learn more in few iterations than the published weight 1 and scales 1 and 2 (docs/family.md, docs/ablations.md).
model.criterion.class_weight = 2.0
model.denoising.update(positive_noise_scale=0.4, negative_noise_scale=0.8)

data.image_size = L(suited_image_size)(dataset="${dataloader.train.dataset.names}", device="${train.device}")
# No crops and a narrow range of scales: DETR's crops are for long trainings. In a quarter of an hour the model learns
# faster from whole images.
dataloader.train.mapper.augmentations = L(flip_and_resize)(
    image_size="${data.image_size}",
    short_edge_lengths=None,
    max_size=None,
    short_edge_scales=[6 / 7, 13 / 14, 1.0, 15 / 14, 8 / 7],
)

_on_gpu = torch.cuda.is_available()
dataloader.train.total_batch_size = 8 if _on_gpu else 4
dataloader.train.num_workers = 4 if _on_gpu else 0  # on a CPU a worker costs memory, and the model needs the cores
dataloader.test.num_workers = dataloader.train.num_workers

optimizer.lr = L(rate_for_batch)(
    rate=1e-3,  # of dino_tiny_shapes, for its batch
    batch_size=8,
    total_batch_size="${dataloader.train.total_batch_size}",
    accumulate="${train.accumulate}",
)
optimizer.params.lr_factor_func.factors = {}  # nothing is pretrained, so everything learns at one rate
lr_multiplier = drop_at(80, 100, warmup=0.03)  # in percent of the run

_run = dict(dataset="${dataloader.train.dataset.names}", device="${train.device}")
train.max_iter = in_epochs(L(suited_epochs)(**_run))  # train.max_iter.epochs=100 for another number
train.eval_period = in_epochs(L(suited_epochs)(**_run, parts=5))
train.checkpointer.period = in_epochs(L(suited_epochs)(**_run, parts=5))
train.best = "bbox/AP"  # model_best.pth
train.early_stopping.patience = 5  # evaluations; ends runs that are made longer
train.best = "bbox/AP"  # model_best.pth
train.early_stopping.patience = 5  # evaluations: the length of a default run, so that only longer ones end early
