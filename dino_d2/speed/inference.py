# SPDX-License-Identifier: Apache-2.0
"""A model for inference only: batch norms fused permanently, weights prepacked, half precision on request."""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from dino_d2.modeling.heads import BoxHead

from .frozen_batch_norm import NormedConv2d
from .fused_resnet import fuse_resnet_blocks
from .prepacked import prepack

Model = TypeVar("Model", bound=nn.Module)


def for_inference(model: Model, precision: torch.dtype | None = None) -> Model:
    """A faster copy of a :class:`~dino_d2.meta_arch.DETR` in evaluation mode.

    Frozen norms are multiplied into the convolutions. With a precision, the model runs under autocast, and the weights
    of convolutions and linear layers are stored in that precision; norms, boxes and sums stay float32. On a CPU the
    weights are prepacked for oneDNN (``prepacked.py``): such a copy must stay on the CPU, its ``state_dict`` lacks
    these weights, and it can be neither compiled nor exported (the original model can). In bfloat16 the blocks of a
    ResNet then overwrite their inputs, so a hook that reads feature maps must clone them.

    Args:
        model: is not changed.
        precision: ``torch.bfloat16`` (also on CPUs that support it), ``torch.float16`` (GPUs), or None for float32.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, NormedConv2d) and not is_parametrized(module):
            module.fuse_permanently()
    if precision is not None:
        model.precision = precision  # type: ignore[assignment]  # PyTorch declares only tensors and modules
        box_heads = {child for module in model.modules() if isinstance(module, BoxHead) for child in module.modules()}
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module not in box_heads:
                module.to(precision)
    prepack(model)
    fuse_resnet_blocks(model.get_submodule("detector.backbone"))
    return model
