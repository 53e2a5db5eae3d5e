# SPDX-License-Identifier: Apache-2.0
"""Learning-rate schedules: one drop to a tenth near the end (DINO section D.3).

Detectron2 counts an epoch of COCO at batch 16 as 7500 iterations, so that its "1x" of 12 epochs is 90,000.
"""

from fvcore.common.param_scheduler import MultiStepParamScheduler

from dino_d2.data.coco_format import iterations
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.solver import WarmupParamScheduler


def drop_at(drop_epoch: int, epochs: int, warmup: float = 0.0):
    """Multiplier 1 until ``drop_epoch`` of ``epochs``, then 0.1; ``warmup`` is a fraction of all iterations."""
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[drop_epoch, epochs]),
        warmup_factor=0.001,
        warmup_length=warmup,
        warmup_method="linear",
    )


def in_epochs(epochs: float):
    """Iterations of ``epochs`` epochs of the training set, counted when a run starts; for own datasets."""
    return L(iterations)(
        epochs=epochs,
        dataset="${dataloader.train.dataset.names}",
        batch_size="${dataloader.train.total_batch_size}",
        accumulate="${train.accumulate}",
    )


lr_multiplier_12ep = drop_at(11, 12)
lr_multiplier_24ep = drop_at(20, 24)
lr_multiplier_36ep = drop_at(30, 36)
lr_multiplier_50ep = drop_at(40, 50)
