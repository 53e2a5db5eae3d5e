# SPDX-License-Identifier: Apache-2.0
"""AdamW with a tenth of the rate for the backbone (DINO Table 8: lr, lr_backbone, weight_decay)."""

import torch

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.solver import get_default_optimizer_params
from dino_d2.engine.optim import LearningRateFactors

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(  # params.model is set to the model before the optimizer is made
        base_lr="${..lr}",
        lr_factor_func=L(LearningRateFactors)(factors={"backbone": 0.1}),
    ),
    lr=1e-4,
    weight_decay=1e-4,
    fused=True,  # all parameters of a group in one kernel
)
