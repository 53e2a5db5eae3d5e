"""Any dataset in COCO format: a json and an image folder each for training and validation.

    train_net.py --config-file ... data.train.json=... data.train.images=... data.val.json=... data.val.images=...

A recipe imports both names, `from ..common.data.coco_format import data, dataloader`, and has its number of
classes counted: `model.num_classes = L(num_classes)(dataset="${dataloader.train.dataset.names}")`.
"""

from omegaconf import OmegaConf

from dino_d2.data.coco_format import coco_format
from dino_d2.detectron2.config import LazyCall as L

from .coco import dataloader

data = OmegaConf.create(
    {
        "train": {"json": "???", "images": "???"},  # ??? is OmegaConf's "must be given"
        "val": {"json": "???", "images": "???"},
    }
)

dataloader.train.dataset.names = L(coco_format)(json="${data.train.json}", images="${data.train.images}")
dataloader.test.dataset.names = L(coco_format)(json="${data.val.json}", images="${data.val.images}")
