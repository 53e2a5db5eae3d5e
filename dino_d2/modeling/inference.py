"""A model for detection alone: norms folded for good, and half precision where it is wished."""

import copy

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from dino_d2.layers.prepacked import prepack

from .frozen_batch_norm import NormedConv2d
from .fused_resnet import fuse_resnet_blocks
from .heads import BoxHead


def for_inference(model: nn.Module, precision: torch.dtype | None = None) -> nn.Module:
    """A copy of a :class:`~dino_d2.modeling.detr.DETR` in evaluation mode that does once what each call would repeat.

    Frozen norms are multiplied into the convolutions. With a precision, the model detects under autocast, and the
    weights of convolutions and linear layers are kept in it; norms, boxes and what is added up stay float32. On a CPU
    those weights lie as oneDNN wants them (``layers/prepacked.py``): such a copy stays on the CPU, its ``state_dict``
    lacks them, and it can be neither compiled nor exported to a file; the model itself can. In bfloat16 the blocks of
    a ResNet write over their inputs there, so a hook that looks at feature maps must clone them.

    Args:
        model: is left as it is.
        precision: ``torch.bfloat16`` (also for CPUs that have it), ``torch.float16`` (for GPUs), or None for float32.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for module in model.modules():
        if isinstance(module, NormedConv2d) and not is_parametrized(module):
            module.fold_for_good()
    if precision is not None:
        model.precision = precision
        box_heads = {child for module in model.modules() if isinstance(module, BoxHead) for child in module.modules()}
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and module not in box_heads:
                module.to(precision)
    prepack(model)
    fuse_resnet_blocks(model.detector.backbone)
    return model
