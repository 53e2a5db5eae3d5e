# SPDX-License-Identifier: Apache-2.0
"""DINO, evaluation: every number of a forward pass."""

import torch

from .dino_forward import compare_forward, run
from .dino_model import build_model

KIND = "DINO eval"


@torch.no_grad()
def test_forward(vector, comparison):
    model = build_model(vector)
    output, recorder = run(model, vector)
    compare_forward(comparison, vector, model, output, recorder, num_slots=0)
    comparison.finish()
