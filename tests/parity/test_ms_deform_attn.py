# SPDX-License-Identifier: Apache-2.0
"""The deformable attention operator alone: value, locations and weights in, with all three gradients."""

import pytest
import torch

from dino_d2.layers import ms_deform_attn

KIND = "ms_deform_attn"
INPUTS = ("value", "sampling_locations", "attention_weights")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_operator(vector, comparison, dtype, tolerance):
    leaves = {name: vector[name].to(dtype).requires_grad_() for name in INPUTS}
    output = ms_deform_attn(
        leaves["value"],
        vector["spatial_shapes"],
        vector["level_start_index"],
        leaves["sampling_locations"],
        leaves["attention_weights"],
    )
    output.backward(vector["grad_output"].to(dtype))
    results = {"output": output} | {f"grad_{name}": leaf.grad for name, leaf in leaves.items()}
    for name, got in results.items():
        comparison.close(name, got, vector[name], tolerance * max(vector.meta["max_abs"][name], 1e-30))
    comparison.finish()
