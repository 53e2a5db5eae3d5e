# SPDX-License-Identifier: Apache-2.0
"""The training losses on the test set."""

import itertools
import logging
import math
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import nn

from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.meta_arch import DETR
from dino_d2.modeling.losses.criterion import each_rank_alone
from dino_d2.visualize.mapped import evaluating

from .building import build
from .model import precision
from .random_state import preserved_random_state

logger = logging.getLogger("dino_d2")


class ImageLosses(NamedTuple):
    """Weighted losses of one image, by name."""

    objects: int
    losses: dict[str, float]


def validation_loss(cfg: DictConfig, model: nn.Module) -> dict[str, float | dict[str, float]]:
    """The training losses of the model in evaluation mode, on the config's test set; no state of training changes.

    Each image is a batch of its own, so the result depends neither on the order of images nor on the number of ranks.
    The noise of the denoising queries is drawn from a seed that the image id determines. The mean over images counts
    each object equally, as a batch does; an image without objects counts as one object.

    Args:
        cfg: of the run; with ``train.amp`` the losses are computed in that precision, as in training.
        model: the one that is evaluated; its mode is restored.

    Returns:
        on rank 0 {"validation_loss": sum of the losses, "validation": {"loss_class": ...}}; nothing on other ranks.

    Raises:
        UserError: the test set has no ground truth, or the model no training losses.
    """
    if not isinstance(model, DETR):
        raise UserError("train.validation_loss needs a model of this project; set it to False")
    dtype = precision(cfg)
    found: dict[object, ImageLosses] = {}
    with preserved_random_state(), evaluating(model), each_rank_alone():
        for image in itertools.chain.from_iterable(build(cfg, "dataloader.test")):
            if "instances" not in image:
                raise UserError(
                    f"train.validation_loss: image {image['image_id']!r} has no ground truth; set it to False, or keep "
                    "'instances' in dataloader.test.mapper"
                )
            torch.manual_seed(zlib.crc32(repr(image["image_id"]).encode()))
            with torch.autocast(model.device.type, dtype=dtype, enabled=dtype is not None):
                losses = model.losses([image])
            values = torch.stack([loss.float() for loss in losses.values()]).tolist()
            found[image["image_id"]] = ImageLosses(len(image["instances"]), dict(zip(losses, values, strict=True)))
    gathered = comm.gather(found)
    if not comm.is_main_process():
        return {}
    images = dict(itertools.chain.from_iterable(part.items() for part in gathered))
    means = mean_losses(images)
    total = math.fsum(means.values())
    main = ", ".join(f"{name} {means[name]:.4g}" for name in ("loss_class", "loss_bbox", "loss_giou") if name in means)
    logger.info("validation_loss %.4g on %d images (last layer: %s)", total, len(images), main)
    return {"validation_loss": total, "validation": means}


def mean_losses(images: Mapping[object, ImageLosses]) -> dict[str, float]:
    """Mean of each loss over images, weighted by their objects. Sums are exact, so their order does not matter."""
    weights = [max(image.objects, 1) for image in images.values()]
    names = dict.fromkeys(name for image in images.values() for name in image.losses)
    return {
        name: math.fsum(w * image.losses.get(name, 0.0) for w, image in zip(weights, images.values(), strict=True))
        / sum(weights)
        for name in names
    }
