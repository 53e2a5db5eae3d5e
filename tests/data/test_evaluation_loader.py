# SPDX-License-Identifier: Apache-2.0
"""The evaluation loader: Detectron2's batches, and the training loader's transfer and messages."""

import gc
import os
import re
import signal
import time

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dino_d2.data import transfer
from dino_d2.data.check import DatasetError
from dino_d2.data.evaluation_loader import build_evaluation_loader
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.data import build_detection_test_loader
from dino_d2.detectron2.utils import comm
from dino_d2.engine import run
from dino_d2.errors import UserError

SIZE = 7


def dataset() -> list[dict]:
    return [{"image_id": 100 + i, "file_name": f"{100 + i}.jpg"} for i in range(SIZE)]


def with_pixels(image: dict) -> dict:
    return image | {"image": torch.full((3, 4, 5), image["image_id"])}


def die_at_102(image: dict) -> dict:
    if image["image_id"] == 102:
        os.kill(os.getpid(), signal.SIGKILL)
    return with_pixels(image)


def refuse_102(image: dict) -> dict:
    if image["image_id"] == 102:
        raise DatasetError("102.jpg is damaged")
    return with_pixels(image)


def skip_102(image: dict) -> dict | None:
    return None if image["image_id"] == 102 else with_pixels(image)


def wait_at_102(image: dict) -> dict:
    if image["image_id"] == 102:
        time.sleep(1)
    return with_pixels(image)


def ids(batches) -> list[list[int]]:
    return [[image["image_id"] for image in batch] for batch in batches]


def build(mapper=with_pixels, **options):
    return build_evaluation_loader(dataset(), mapper=mapper, **options)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_are_those_of_detectron2(batch_size, num_workers):
    theirs = build_detection_test_loader(dataset(), mapper=with_pixels, batch_size=batch_size)
    ours = build(batch_size=batch_size, num_workers=num_workers)
    assert len(ours) == len(theirs)
    assert ids(ours) == ids(theirs)
    assert ids(ours) == ids(theirs), "the loader can be used again"


def test_ranks_share_the_images(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    found = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loaders = [build(), build_detection_test_loader(dataset(), mapper=with_pixels)]
        assert ids(loaders[0]) == ids(loaders[1])
        found += [image for batch in ids(loaders[0]) for image in batch]
    assert found == [100 + i for i in range(SIZE)]


def test_the_generator_of_the_training_is_left_alone():
    state = torch.get_rng_state()
    ids(build(num_workers=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_full_shared_memory_costs_a_line_and_no_batch(monkeypatch, caplog):
    def fail(self):
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", fail)  # the workers are forked with it
    transfer._warn_of_full_memory.cache_clear()
    for image in (image for batch in build(num_workers=1) for image in batch):
        assert torch.equal(image["image"], torch.full((3, 4, 5), image["image_id"]))
    assert caplog.text.count("/dev/shm is full") == 1


def test_a_batch_costs_one_file_descriptor():
    batches = iter(build(num_workers=1, batch_size=3))
    kept = [next(batches)]
    before = len(os.listdir("/proc/self/fd"))
    kept += list(batches)
    assert len(os.listdir("/proc/self/fd")) <= before + 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_error_of_an_image_has_no_traceback_of_a_worker(num_workers):
    with pytest.raises(DatasetError) as raised:
        ids(build(refuse_102, num_workers=num_workers))
    assert str(raised.value) == "102.jpg is damaged"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_other_image_replaces_a_skipped_one(num_workers):
    with pytest.raises(DatasetError, match=r"mapper returned None for 102\.jpg \(image id 102\)"):
        ids(build(skip_102, num_workers=num_workers))


def test_waiting_is_reported_with_the_image(monkeypatch, caplog):
    monkeypatch.setattr("dino_d2.data.workers.PATIENCE", 0.4)
    ids(build(wait_at_102, num_workers=1))
    who = r"worker 0 \(process \d+\) has been reading 102\.jpg \(image id 102\) for \d+ s"
    assert re.search(rf"No batch from the data loader for \d+ s: {who}", caplog.text)


def test_the_death_of_a_worker_ends_an_evaluation_in_words(monkeypatch):
    monkeypatch.setattr(run, "for_inference", lambda model, precision: model)
    cfg = OmegaConf.create({"train": {"amp": {"enabled": False}, "output_dir": "."}, "dataloader": {"evaluator": None}})
    cfg.dataloader.test = L(build_evaluation_loader)(dataset=L(dataset)(), mapper=die_at_102, num_workers=1)
    with pytest.raises(UserError) as raised:
        run.test(cfg, nn.Identity())
    words = str(raised.value)
    who = r"worker 0 \(process \d+\), which was reading 102\.jpg \(image id 102\)"
    assert re.match(rf"The data loader's {who}, (is killed by signal: Killed|exited unexpectedly)\. ", words)
    assert "dataloader.test.num_workers=0" in words
    del raised
    gc.collect()  # PyTorch reports the dead worker again at the end of any other process while its loader exists


def test_other_errors_of_an_evaluation_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(run, "for_inference", lambda model, precision: model)
    cfg = OmegaConf.create({"train": {"amp": {"enabled": False}, "output_dir": "."}, "dataloader": {"evaluator": None}})
    cfg.dataloader.test = L(build_evaluation_loader)(dataset=L(dataset)(), mapper=None)

    class Broken(nn.Module):
        def forward(self, batch):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run.test(cfg, Broken())


def test_only_lists_are_accepted():
    with pytest.raises(TypeError, match="not a tuple"):
        build_evaluation_loader(tuple(dataset()), mapper=None)
