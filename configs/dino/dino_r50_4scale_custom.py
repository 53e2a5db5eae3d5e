# SPDX-License-Identifier: Apache-2.0
"""DINO, ResNet-50, 4 scales, for a dataset of your own in COCO format (docs/custom_data.md).

    data.root=... or data.train.json=... data.train.images=... data.val.json=... data.val.images=...
    train.init_checkpoint=...    weights trained on COCO, which a small dataset needs

The numbers of classes and of iterations per epoch are read from the json, so the recipe fits any dataset.
"""

from dino_d2.data.coco_format import num_classes
from dino_d2.detectron2.config import LazyCall as L

from ..common.data.custom import data, dataloader
from ..common.models.dino_r50 import model
from ..common.optim import optimizer
from ..common.schedule import drop_at, in_epochs
from ..common.train import train

model.detector.num_classes = L(num_classes)(dataset="${dataloader.train.dataset.names}")

dataloader.train.total_batch_size = 4
optimizer.lr = 5e-5  # 1e-4 is for batch 16; with Adam the rate goes with the square root of the batch
lr_multiplier = drop_at(80, 100, warmup=0.02)  # in percent of the run

train.max_iter = in_epochs(50)  # train.max_iter.epochs=20 for another number
train.eval_period = in_epochs(5)
train.checkpointer.period = in_epochs(5)
train.best = "bbox/AP"  # model_best.pth: a small dataset is often learned by heart before the run ends
# Half of the run's ten evaluations. The drop of the learning rate after 80% of the run usually brings AP, so a run that
# stands still must not end just before it.
train.early_stopping.patience = 5
