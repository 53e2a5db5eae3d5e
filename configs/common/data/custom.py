# SPDX-License-Identifier: Apache-2.0
"""A dataset of the user's own, in COCO format.

    data.root=FOLDER    in the layout of Roboflow or COCO (dino_d2/data/folders.py), or the paths one by one:
    data.train.json=... data.train.images=... data.val.json=... data.val.images=...
    data.image_size=640    shorter side of the images; the lengths of the augmentation follow

A recipe imports both names, `from ..common.data.custom import data, dataloader`, and has its number of classes
counted: `model.detector.num_classes = L(num_classes)(dataset="${dataloader.train.dataset.names}")`.
"""

from omegaconf import OmegaConf

from dino_d2.data.augmentation import augmentation_at_size
from dino_d2.data.coco_format import class_names
from dino_d2.data.folders import custom_dataset
from dino_d2.detectron2.config import LazyCall as L

from .coco import dataloader

data = OmegaConf.create(
    {
        "root": None,
        "train": {"json": None, "images": None},
        "val": {"json": None, "images": None},
        "within": None,  # the folder that no file name of the jsons may leave; by default root, or that of the images
        "skip_bad_images": False,  # true: decode all images first, and leave out those that cannot be read
        "image_size": 800,  # pixels of the shorter side in evaluation, and the longest in training
    }
)
# Read once, when a run starts; its config.yaml has them as a list, so a trained model needs no dataset to name them.
data.classes = L(class_names)(dataset="${dataloader.train.dataset.names}")

dataloader.train.dataset.names = L(custom_dataset)(
    split="train",
    root="${data.root}",
    json="${data.train.json}",
    images="${data.train.images}",
    within="${data.within}",
    skip_bad_images="${data.skip_bad_images}",
)
dataloader.test.dataset.names = L(custom_dataset)(
    split="val",
    root="${data.root}",
    json="${data.val.json}",
    images="${data.val.images}",
    within="${data.within}",
    skip_bad_images="${data.skip_bad_images}",
)

# DETR's augmentation (configs/common/data/coco.py) at any image size. A length that is given counts instead.
dataloader.train.mapper.augmentations = L(augmentation_at_size)(
    image_size="${data.image_size}",
    short_edge_lengths=None,
    max_size=None,
    crop_short_edge_lengths=None,
    crop_size=None,
)
dataloader.test.mapper.augmentations.update(short_edge_length="${data.image_size}", max_size=None)
