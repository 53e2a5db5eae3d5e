# SPDX-License-Identifier: Apache-2.0
"""The training loader: Detectron2's order, one random stream per sample, and a position to go on from."""

import itertools
import os
import pickle
import random
import re
import signal
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from dino_d2.data.check import DatasetError
from dino_d2.data.loader import BatchOrder, Draw, build_train_loader
from dino_d2.detectron2.data import build_detection_train_loader
from dino_d2.detectron2.data.samplers import TrainingSampler
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError

SIZE = 11


def dataset() -> list[dict]:
    """Of every three images, one is wider than high."""
    return [{"image_id": 100 + i, "width": 8 if i % 3 == 0 else 4, "height": 6} for i in range(SIZE)]


def draws(image: dict) -> dict:
    """A mapper that shows what it drew from each generator."""
    drawn = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002
    return {**image, "drawn": drawn}


def build(**options):
    return build_train_loader(dataset(), **({"mapper": draws, "total_batch_size": 4, "seed": 7} | options))


def take(loader, count: int) -> list:
    return list(itertools.islice(loader, count))


def ids(batches) -> list[list[int]]:
    return [[image["image_id"] for image in batch] for batch in batches]


@pytest.mark.parametrize("grouping", [False, True])
def test_batches_are_those_of_detectron2(grouping):
    theirs = build_detection_train_loader(
        dataset(),
        mapper=draws,
        sampler=TrainingSampler(SIZE, seed=7),
        total_batch_size=4,
        aspect_ratio_grouping=grouping,
        num_workers=0,
    )
    assert ids(take(build(aspect_ratio_grouping=grouping), 20)) == ids(take(theirs, 20))


def test_groups_do_not_mix():
    for batch in take(build(aspect_ratio_grouping=True), 20):
        assert len({image["width"] > image["height"] for image in batch}) == 1


@pytest.mark.parametrize("grouping", [False, True])
def test_batches_and_their_augmentation_do_not_depend_on_the_number_of_workers(grouping):
    alone, one, two = (take(build(aspect_ratio_grouping=grouping, num_workers=n), 8) for n in (0, 1, 2))
    assert alone == one == two
    drawn = {value for batch in alone for image in batch for value in image["drawn"]}
    assert len(drawn) == 8 * 4 * 3  # no two samples and no two generators share numbers


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("grouping", [False, True])
def test_a_loader_goes_on_where_another_one_was(grouping, num_workers):
    expected = take(build(aspect_ratio_grouping=grouping), 9)
    stopped = build(aspect_ratio_grouping=grouping, num_workers=num_workers)
    assert take(stopped, 4) == expected[:4]
    state = stopped.state_dict()
    assert state["batches"] == 4, "what workers had loaded ahead was counted"
    resumed = build(aspect_ratio_grouping=grouping, num_workers=num_workers, seed=999)
    resumed.load_state_dict(state)
    assert take(resumed, 5) == expected[4:]
    assert take(stopped, 5) == expected[4:], "iterating again goes on too"


def test_going_on_loads_no_image_that_was_passed():
    seen = []
    resumed = build(mapper=lambda image: seen.append(image["image_id"]) or image)
    resumed.load_state_dict(resumed.state_dict() | {"batches": 50_000})
    (batch,) = take(resumed, 1)
    assert seen == ids([batch])[0]


def test_another_batch_size_goes_on_after_as_many_images_and_says_so(caplog):
    state = build().state_dict() | {"batches": 6}
    resumed = build(total_batch_size=8)
    resumed.load_state_dict(state)
    assert resumed.position == 3
    assert "total_batch_size was 4, is now 8" in caplog.text


def test_the_generators_of_the_training_are_left_alone():
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    for num_workers in (0, 1):
        take(build(num_workers=num_workers), 3)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_ranks_share_the_stream_without_overlap(monkeypatch):
    def of_rank(rank):
        monkeypatch.setattr(comm, "get_world_size", lambda: 2)
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        return list(itertools.islice(BatchOrder(12, batch_size=3, seed=7).batches(), 8))

    ranks = [of_rank(0), of_rank(1)]
    assert all(len(batch) == 3 for rank in ranks for batch in rank)
    draws = sorted((draw for rank in ranks for batch in rank for draw in batch), key=lambda draw: draw.position)
    assert [draw.position for draw in draws] == list(range(48))
    for epoch in range(4):
        assert sorted(draw.index for draw in draws[12 * epoch :][:12]) == list(range(12))
    monkeypatch.undo()
    alone = list(itertools.islice(TrainingSampler(12, seed=7), 48))
    assert [draw.index for draw in draws] == alone, "two ranks together see what one rank sees"


def test_ranks_must_share_a_batch_evenly(monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"total_batch_size=4 cannot be shared evenly by 3 ranks"):
        build()


@pytest.mark.parametrize("seed", [None, -1])
def test_without_a_seed_it_is_random_and_the_state_has_it(seed):
    loader = build(seed=seed)
    first = take(loader, 3)
    again = build(seed=None)
    again.load_state_dict(loader.state_dict() | {"batches": 0})
    assert take(again, 3) == first
    assert take(build(seed=None), 3) != first


def broken(image: dict) -> dict:
    if image["image_id"] == 105:
        raise DatasetError("image id 105 is broken: replace the file")
    return image


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataset_error_of_a_worker_is_the_one_line_it_was(num_workers):
    with pytest.raises(DatasetError) as error:
        take(build(mapper=broken, num_workers=num_workers), 5)
    assert str(error.value) == "image id 105 is broken: replace the file"


def test_a_mapper_may_pass_over_images():
    batches = take(build(mapper=lambda image: image if image["image_id"] > 105 else None), 6)
    assert all(image["image_id"] > 105 for batch in batches for image in batch)
    with pytest.raises(DatasetError, match="returned None for 100 images in a row"):
        take(build(mapper=lambda image: None), 1)


def test_a_mapper_defined_in_a_config_file_reaches_spawned_workers():
    class Local:  # as in a config file, no module has this name
        def __call__(self, image: dict) -> dict:
            return {"seen": image["image_id"]}

    samples = build(mapper=Local()).samples
    copy = pickle.loads(ForkingPickler.dumps(samples))
    assert copy[Draw(3, 0)] == samples[Draw(3, 0)] == {"seen": 103}


def dies_at_102(image: dict) -> dict:
    if image["image_id"] == 102:
        os.kill(os.getpid(), signal.SIGKILL)
    return image


def test_the_death_of_a_worker_names_it_and_its_image():
    loader = build(mapper=dies_at_102, num_workers=1)
    loader.samples.dicts = [{**image, "file_name": f"{image['image_id']}.jpg"} for image in dataset()]
    with pytest.raises((RuntimeError, ConnectionError)) as died:
        take(loader, 20)
    error = loader.explain(died.value)
    assert isinstance(error, UserError)
    who = r"worker 0 \(process \d+\), which was reading 102\.jpg \(image id 102\)"
    assert re.match(rf"The data loader's {who}, (is killed by signal: Killed|exited unexpectedly)\. ", str(error))
    assert "\n" not in str(error)
    assert loader.explain(RuntimeError("something else")) is None


def test_a_worker_that_dies_after_it_has_sent_a_batch_is_reported():
    """Its connections are reset, so that the batch cannot be received."""
    loader = build(mapper=with_pid, num_workers=1)
    batches = iter(loader)
    worker = next(batches)[0]["pid"]
    os.kill(worker, signal.SIGKILL)
    explained = loader.explain(ConnectionResetError(104, "Connection reset by peer"))
    assert f"worker 0 (process {worker}), " in str(explained)
    assert loader.explain(OSError("another error")) is None


def slow_at_102(image: dict) -> dict:
    if image["image_id"] == 102:
        time.sleep(1.5)
    return image


@pytest.mark.parametrize(("num_workers", "who"), [(0, "the main process"), (1, r"worker 0 \(process \d+\)")])
def test_waiting_for_a_batch_is_said_with_the_image(num_workers, who, monkeypatch, caplog):
    monkeypatch.setattr("dino_d2.data.workers.PATIENCE", 0.4)
    take(build(mapper=slow_at_102, num_workers=num_workers), 3)
    image = r"an image without a file name \(image id 102\)"
    assert re.search(rf"No batch from the data loader for \d+ s: {who} has been reading {image} for \d+ s", caplog.text)


def test_grouping_needs_sizes():
    images = dataset()
    del images[5]["width"]
    with pytest.raises(DatasetError, match=r"Image id 105.*aspect_ratio_grouping"):
        build_train_loader(images, mapper=draws, total_batch_size=2)
    build_train_loader(images, mapper=draws, total_batch_size=2, aspect_ratio_grouping=False)


def test_only_lists_are_taken():
    with pytest.raises(TypeError, match="not a tuple"):
        build_train_loader(tuple(dataset()), mapper=draws, total_batch_size=2)


def with_pid(image: dict) -> dict:
    return {**image, "pid": os.getpid()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_workers_live_through_a_signal_to_the_whole_job(number):
    """Sent by a process that is neither the trainer nor the worker, as a batch system does."""
    batches = iter(build(mapper=with_pid, num_workers=1))
    worker = next(batches)[0]["pid"]
    assert worker != os.getpid()
    assert os.system(f"kill -{int(number)} {worker}") == 0
    time.sleep(0.2)
    for _ in range(8):
        assert {image["pid"] for image in next(batches)} == {worker}


def test_workers_end_with_a_sigterm_of_their_trainer():
    batches = iter(build(mapper=with_pid, num_workers=1))
    worker = next(batches)[0]["pid"]
    os.kill(worker, signal.SIGTERM)
    os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    with pytest.raises(RuntimeError, match="worker"):
        take(batches, 20)
