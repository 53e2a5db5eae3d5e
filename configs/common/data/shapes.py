# SPDX-License-Identifier: Apache-2.0
"""The generated shapes dataset (dino_d2/data/shapes.py): 1000 + 100 images of 128 x 128, generated on first use."""

from dino_d2.data.shapes import shapes
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.data import transforms as T

from .coco import dataloader

dataloader.train.dataset.names = L(shapes)(split="train", root="datasets/shapes")
dataloader.test.dataset.names = L(shapes)(split="val", root="${....train.dataset.names.root}")

# The images are small, so they are neither resized nor cropped.
dataloader.train.mapper.augmentations = [L(T.RandomFlip)(prob=0.5, horizontal=True)]
dataloader.test.mapper.augmentations = []

dataloader.train.total_batch_size = 8
dataloader.train.aspect_ratio_grouping = False  # all are square
dataloader.train.num_workers = 2
dataloader.test.num_workers = 0  # reading 100 small images takes less time than starting a worker
