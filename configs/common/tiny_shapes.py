# SPDX-License-Identifier: Apache-2.0
"""Shared settings of the family's small recipes on the generated shapes; sizes as in dino/dino_tiny_shapes.py."""

from omegaconf import DictConfig

from .data.shapes import dataloader
from .optim import optimizer
from .schedule import drop_at
from .train import train

optimizer.lr = 1e-3
optimizer.params.lr_factor_func.factors = {}  # nothing is pretrained, so everything learns at one rate
lr_multiplier = drop_at(75, 100, warmup=0.03)

train.max_iter = 2000
train.eval_period = 1000
train.checkpointer.period = 500


def several_scales(model: DictConfig) -> None:
    """Shrink a detector with several scales."""
    _shrink(model, channels=[32, 64, 128, 256])
    model.detector.neck.in_channels = {"res3": 64, "res4": 128, "res5": 256}


def one_scale(model: DictConfig) -> None:
    """Shrink a detector with one scale; its last stage is dilated as in the DC5 models (8 × 8 tokens).

    Its recipe sets a lower learning rate, 3e-4: at 1e-3 the losses of these detectors hardly fall.
    """
    _shrink(model, channels=[32, 64, 128, 256], output_stride=16)
    model.detector.neck.in_channels = {"res5": 256}


def _shrink(model: DictConfig, **backbone_options: list[int] | int) -> None:
    model.detector.num_classes = 5
    model.detector.embed_dim = 96
    model.detector.backbone.update(
        name="resnet10t",
        pretrained=False,
        freeze_stages=0,
        freeze_batch_norm=False,  # from random weights, batch norm must learn its statistics
        options=backbone_options,
    )
    model.detector.encoder.update(num_layers=2, feedforward_dim=256, num_heads=6, dropout=0.0)
    model.detector.decoder.update(num_layers=3, feedforward_dim=256, num_heads=6, dropout=0.0)
