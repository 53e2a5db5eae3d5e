# SPDX-License-Identifier: Apache-2.0
"""Samplers, dataset wrappers and loaders of both engines."""

import itertools
import pickle

import pytest
import torch

from .engines import ENGINES, both, module, seed_all


@pytest.mark.parametrize("shuffle", [True, False])
def test_training_sampler(shuffle):
    real, embedded = (list(itertools.islice(m.TrainingSampler(13, shuffle, seed=9), 50)) for m in both("data.samplers"))
    assert real == embedded
    draws = []
    for m in both("data.samplers"):
        seed_all(4)
        draws.append(list(itertools.islice(m.TrainingSampler(13), 20)))  # without a seed: from NumPy's
    assert draws[0] == draws[1]


@pytest.mark.parametrize("sqrt", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_repeat_factor_sampler(sqrt, shuffle):
    classes = [[0], [0, 1], [], [0, 2, 2], [0], [1]]
    records = [{"annotations": [{"category_id": c} for c in of_image]} for of_image in classes]
    drawn = []
    for m in both("data.samplers"):
        factors = m.RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, 0.7, sqrt)
        seed_all(5)
        samplers = [m.RepeatFactorTrainingSampler(factors, shuffle=shuffle, seed=seed) for seed in (4, None)]
        drawn.append((factors.tolist(), *(list(itertools.islice(sampler, 60)) for sampler in samplers)))
    assert drawn[0] == drawn[1]
    assert max(drawn[0][0]) > 1


@pytest.mark.parametrize(("size", "world"), [(10, 4), (3, 4), (8, 2)])
def test_inference_sampler(size, world, monkeypatch):
    for rank in range(world):
        for engine in ENGINES:
            comm = module(engine, "utils.comm")
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            monkeypatch.setattr(comm, "get_world_size", lambda: world)
        real, embedded = (list(m.InferenceSampler(size)) for m in both("data.samplers"))
        assert real == embedded


class Numbers(torch.utils.data.IterableDataset):
    """Dicts that are wider than high and higher than wide in turns."""

    def __len__(self):
        return 12

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        for k in range(0 if worker is None else worker.id, 12, 1 if worker is None else worker.num_workers):
            yield {"width": 1 + k % 2, "height": 1, "k": k}


def without_fours(item):
    return None if item["k"] % 4 == 0 else item


def numbers_of(batch):
    return [item["k"] for item in batch]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("collate_fn", [None, numbers_of])
@pytest.mark.parametrize("iterable", [True, False])
def test_loaders_of_torch_datasets(workers, grouping, collate_fn, iterable):
    batches = []
    for data in both("data"):
        dataset = Numbers() if iterable else data.DatasetFromList(list(Numbers()), serialize=tuple)
        seed_all(6)
        train = data.build_detection_train_loader(
            dataset,
            mapper=without_fours,
            total_batch_size=2,
            aspect_ratio_grouping=grouping,
            num_workers=workers,
            collate_fn=collate_fn,
            persistent_workers=False,
            prefetch_factor=3,
        )
        test = data.build_detection_test_loader(
            dataset, mapper=without_fours, batch_size=5, num_workers=workers, collate_fn=collate_fn
        )
        batches.append((list(itertools.islice(train, 4)), list(test)))
    assert batches[0] == batches[1]
    assert batches[0][0]
    assert batches[0][1]


@pytest.mark.parametrize("drop_last", [True, False])
def test_batch_loader(drop_last):
    batches = []
    for data in both("data"):
        loader = data.build_batch_data_loader(
            data.DatasetFromList(list(range(7))),
            data.samplers.InferenceSampler(7),
            None,
            single_gpu_batch_size=3,
            drop_last=drop_last,
        )
        batches.append(list(loader))
        for options in ({"total_batch_size": 3, "single_gpu_batch_size": 3}, {"total_batch_size": 0}):
            with pytest.raises((ValueError, AssertionError)):
                data.build_batch_data_loader([1], data.samplers.InferenceSampler(1), **options)
        for build in (data.build_detection_train_loader, data.build_detection_test_loader):
            size = {"total_batch_size": 1} if build is data.build_detection_train_loader else {}
            with pytest.raises(AssertionError):
                build(Numbers(), mapper=None, sampler=data.samplers.InferenceSampler(12), **size)
    assert batches[0] == batches[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_dataset_wrappers(engine):
    data, common = module(engine, "data"), module(engine, "data.common")
    made = []
    items = [[1], [2]]
    kept = data.DatasetFromList(items, serialize=lambda lst: made.append(lst) or lst)
    assert made == [items]
    assert kept[0] is items[0]
    assert data.DatasetFromList(items, copy=False, serialize=False)[1] is items[1]
    assert data.DatasetFromList(items, serialize=False)[1] is not items[1]
    with pytest.raises(TypeError):
        data.DatasetFromList(items, serialize="yes")
    mapped = data.MapDataset(Numbers(), without_fours)
    assert isinstance(mapped, torch.utils.data.IterableDataset)
    assert [item["k"] for item in mapped] == [1, 2, 3, 5, 6, 7, 9, 10, 11]
    assert len(mapped) == 12
    copied = pickle.loads(pickle.dumps(data.MapDataset(data.DatasetFromList(items), len)))
    assert [copied[0], len(copied)] == [1, 2]
    for arguments in ((Numbers(), data.samplers.InferenceSampler(1)), (kept, [0, 1])):
        with pytest.raises(AssertionError):
            common.ToIterableDataset(*arguments)
    everything = common.ToIterableDataset(kept, data.samplers.InferenceSampler(2), shard_sampler=False)
    assert list(torch.utils.data.DataLoader(everything, None, num_workers=2)) == [[1], [1], [2], [2]]
