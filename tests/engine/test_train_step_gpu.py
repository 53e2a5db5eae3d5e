# SPDX-License-Identifier: Apache-2.0
"""A training step on a GPU waits for it once: to copy the matching costs."""

import warnings

import pytest
import torch

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_forward_and_backward_wait_once(make_model, make_input):
    model = make_model().cuda().train()
    inputs = [make_input(64, 96, seed=1), make_input(96, 64, seed=2)]
    sum(model(inputs).values()).backward()  # allocations and caches
    for x in inputs:  # as the loader's pinned memory would be
        x["image"] = x["image"].pin_memory()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            sum(model(inputs).values()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA operation" in str(w.message)]
    assert len(waits) == 1, waits
    assert waits[0].rpartition(":")[0].endswith("matcher.py")
