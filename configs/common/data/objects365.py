# SPDX-License-Identifier: Apache-2.0
"""Objects365, split as in DINO's appendix D.2; dino_d2/data/objects365.py documents the expected folders."""

from dino_d2.data.objects365 import objects365
from dino_d2.detectron2.config import LazyCall as L

from .coco import dataloader

dataloader.train.dataset.names = [L(objects365)(split="train"), L(objects365)(split="val_rest")]
dataloader.test.dataset.names = L(objects365)(split="val")
dataloader.train.total_batch_size = 64
