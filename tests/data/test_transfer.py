# SPDX-License-Identifier: Apache-2.0
"""Batches on their way from loading processes to the trainer."""

import functools
import os
import pickle
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dino_d2.data import transfer
from dino_d2.data.transfer import Packed, pack
from dino_d2.detectron2.structures import Boxes, Instances

TENSORS = [
    torch.arange(6, dtype=torch.uint8).view(1, 2, 3),
    torch.randn(2, 3, 5).permute(2, 0, 1),
    torch.randn(4, 6)[:, ::2],
    torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last),
    torch.tensor(7),
    torch.zeros(0, 4),
    torch.tensor([True, False]),
    torch.randn(3, dtype=torch.bfloat16),
    torch.randn(3, dtype=torch.complex64).conj(),
]


def sent(batch):
    return pickle.loads(ForkingPickler.dumps(Packed(batch)))


@pytest.mark.parametrize("value", TENSORS, ids=lambda value: f"{value.dtype}-{tuple(value.shape)}")
def test_tensors_arrive_as_they_were(value):
    (arrived,) = sent([value])
    assert arrived.dtype == value.dtype
    assert torch.equal(arrived, value)
    if value.is_contiguous() or value.is_contiguous(memory_format=torch.channels_last):
        assert arrived.stride() == value.stride()


def fields() -> dict:
    instances = Instances((4, 5), gt_boxes=Boxes(torch.ones(2, 4)), gt_classes=torch.tensor([1, 2]))
    return {"image": torch.ones(3, 4, 5), "instances": instances, "array": np.arange(6.0).reshape(2, 3), "image_id": 3}


@pytest.mark.parametrize("full", [False, True])
def test_a_batch_of_inputs_arrives_and_can_be_changed(full, monkeypatch, caplog):
    if full:
        refuse_shared_memory(monkeypatch)
    transfer._warn_of_full_memory.cache_clear()
    for arrived in sent([fields(), fields()]) + sent([fields()]):
        assert arrived["image_id"] == 3
        assert arrived["instances"].image_size == (4, 5)
        arrived["image"] += 1
        arrived["array"] += 1
        assert torch.equal(arrived["image"], torch.full((3, 4, 5), 2.0))
        assert torch.equal(arrived["instances"].gt_boxes.tensor, torch.ones(2, 4))
        assert arrived["array"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert caplog.text.count("/dev/shm is full") == full


def refuse_shared_memory(monkeypatch):
    def fail(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)


@pytest.mark.parametrize("strategy", ["fork", "forkserver"])
def test_a_batch_costs_one_file_descriptor(strategy):
    data = [fields() for _ in range(64)]
    collate = functools.partial(pack, collate=list)
    loader = DataLoader(data, batch_size=16, num_workers=1, collate_fn=collate, multiprocessing_context=strategy)
    batches = iter(loader)
    kept = [next(batches)]
    before = len(os.listdir("/proc/self/fd"))
    kept += list(batches)
    # Three batches have 192 tensors; a few descriptors more are those of connections between the processes.
    assert len(os.listdir("/proc/self/fd")) <= before + 12
    assert [image["image_id"] for batch in kept for image in batch] == [3] * 64
