# SPDX-License-Identifier: Apache-2.0
"""Image size and length of a training from scratch, computed from the dataset and the device.

Each function is meant for `LazyCall` in a config. All look at the images and boxes of the annotation file alone.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from dino_d2.data.coco_format import num_images
from dino_d2.detectron2.data import DatasetCatalog
from dino_d2.detectron2.structures import BoxMode

#: A small object, the 5th percentile of the sides, should have this many pixels: 2.5 cells of the finest feature map,
#: which has stride 8.
_PIXELS_OF_SMALL_OBJECT = 20
_SMALL_OBJECT_PERCENTILE = 5
#: Image sizes are multiples of this, in pixels.
_STEP = 16
#: A run has at least and at most this many epochs, however large or small the dataset is.
_FEWEST_EPOCHS, _MOST_EPOCHS = 12, 300
#: Bytes that a training step of `dino_small_custom` takes for each pixel of each image at the size of the evaluation.
#: Measured on a CPU, without what the process itself takes.
_BYTES_PER_PIXEL = 3300
#: Images in a step of `dino_small_custom` on a GPU, width / height of a photograph, and the share of the memory that a
#: step may take.
_GPU_BATCH, _ASPECT, _SHARE_OF_MEMORY = 8, 4 / 3, 0.7


class Budget(NamedTuple):
    """What a device can train in a quarter of an hour and in its memory."""

    smallest_size: int  # shorter side of an image, in pixels
    largest_size: int
    images: int  # that the model sees during the run, with repetitions


_CPU = Budget(smallest_size=192, largest_size=320, images=4100)
_LARGE_GPU = Budget(smallest_size=320, largest_size=640, images=40_000)


def budget_of(device: str) -> Budget:
    """What a device of PyTorch, such as "cpu" or "cuda:1", can train in a quarter of an hour and in its memory."""
    if torch.device(device).type != "cuda":
        return _CPU
    memory = torch.cuda.get_device_properties(device).total_memory
    pixels = _SHARE_OF_MEMORY * memory / (_GPU_BATCH * _BYTES_PER_PIXEL)
    fits = _STEP * int(math.sqrt(pixels / _ASPECT) / _STEP)
    return _LARGE_GPU._replace(
        smallest_size=min(fits, _LARGE_GPU.smallest_size), largest_size=min(fits, _LARGE_GPU.largest_size)
    )


def suited_image_size(dataset: str, device: str) -> int:
    """The shorter side that images are resized to, in pixels.

    It is as small as the objects allow: the 5th percentile of their sides (square root of the box's area) becomes 20
    pixels. It is never larger than the images themselves, in the median, and stays in the range of the device.

    Args:
        dataset: registered name.
        device: of PyTorch.
    """
    budget = budget_of(device)
    dataset_dicts = DatasetCatalog.get(dataset)
    shorter = [min(image["width"], image["height"]) for image in dataset_dicts]
    sides = [
        math.sqrt(_area(annotation)) / side  # as a fraction of the image's shorter side
        for image, side in zip(dataset_dicts, shorter, strict=True)
        for annotation in image.get("annotations", [])
        if not annotation.get("iscrowd", 0)
    ]
    small = np.percentile(sides, _SMALL_OBJECT_PERCENTILE) if sides else 1.0
    wanted = _PIXELS_OF_SMALL_OBJECT / small if small > 0 else math.inf
    largest = max(budget.smallest_size, min(budget.largest_size, float(np.median(shorter))))
    return _STEP * round(min(max(wanted, budget.smallest_size), largest) / _STEP)


def _area(annotation: dict) -> float:
    """In pixels squared; 0 for a box without one."""
    _, _, width, height = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    return max(0.0, width) * max(0.0, height)


def suited_epochs(dataset: str, device: str, parts: int = 1) -> float:
    """Epochs of a run, or of a part of it: as many as the device's budget allows, 12 to 300.

    Args:
        dataset: registered name.
        device: of PyTorch.
        parts: that the run is divided into, for the interval between evaluations.
    """
    epochs = budget_of(device).images / num_images(dataset)
    return min(max(epochs, _FEWEST_EPOCHS), _MOST_EPOCHS) / parts
