# SPDX-License-Identifier: Apache-2.0
"""Dataset wrappers, as in `detectron2.data.common`."""

import copy
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from ..utils.serialize import PicklableWrapper

logger = logging.getLogger("detectron2.data.common")


def _length(dataset: Dataset) -> int:
    """The number of elements of a map-style dataset, which PyTorch's type of datasets does not declare."""
    return len(dataset)  # type: ignore[arg-type]


class MapDataset(Dataset):
    """Applies a function to each element of a dataset; for an `IterableDataset` this is an `IterableDataset` again.

    If the function returns None (for example for a bad image), another element is drawn at random with a fixed seed; an
    `IterableDataset` continues with its next element.
    """

    def __new__(cls, dataset: Dataset, map_func: Callable) -> Dataset:  # type: ignore[misc]  # as in Detectron2
        if isinstance(dataset, IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __getnewargs__(self) -> tuple:
        return self._dataset, self._map_func

    def __init__(self, dataset: Dataset, map_func: Callable) -> None:
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)
        self._rng = random.Random(42)
        self._fallback_candidates = set(range(_length(dataset)))

    def __len__(self) -> int:
        return _length(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        retries, current = 0, int(idx)
        while (item := self._map_func(self._dataset[current])) is None:
            retries += 1
            self._fallback_candidates.discard(current)
            current = self._rng.sample(list(self._fallback_candidates), k=1)[0]
            if retries >= 3:
                logger.warning("No usable element for idx %d after %d tries.", idx, retries)
        self._fallback_candidates.add(current)
        return item


class _MapIterableDataset(IterableDataset):
    def __init__(self, dataset: IterableDataset, map_func: Callable) -> None:
        self._dataset = dataset
        self._map_func = PicklableWrapper(map_func)

    def __len__(self) -> int:
        return _length(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        return (item for item in map(self._map_func, self._dataset) if item is not None)


class _SerializedList:
    """A list as two tensors of bytes, which worker processes share instead of copying."""

    def __init__(self, items: list) -> None:
        pickled = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in items]
        self._ends = torch.from_numpy(np.cumsum([len(item) for item in pickled], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(pickled))
        logger.info("Serialized %d elements: %.2f MiB", len(items), len(self._bytes) / 1024**2)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: int) -> Any:
        begin = 0 if idx == 0 else self._ends[idx - 1].item()
        return pickle.loads(self._bytes[begin : self._ends[idx].item()].numpy().data)


class DatasetFromList(Dataset):
    """The elements of a list; each access gives a new copy, unless both arguments are False."""

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Sequence[Any]] = True) -> None:
        """
        Args:
            copy: return copies of the elements if the list is not serialized.
            serialize: store the elements as bytes; or a function that turns the list into the sequence to store.
        """
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(f"serialize must be True, False or a function, not {serialize!r}.")
        self._lst: Sequence[Any] | _SerializedList = lst
        if serialize:
            self._lst = serialize(lst) if callable(serialize) else _SerializedList(lst)
        self._copy = copy and not serialize  # deserialised elements are copies already

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        return copy.deepcopy(self._lst[idx]) if self._copy else self._lst[idx]


class ToIterableDataset(IterableDataset):
    """A map-style dataset in the order of a sampler.

    The order is cut into chunks of `shard_chunk_size` indices, and worker w of a `DataLoader` takes the chunks w,
    w + `num_workers`, w + 2 `num_workers` and so on. With the batch size as `shard_chunk_size`, batch k comes from
    worker k modulo `num_workers`, and batches are the same for any number of workers.
    """

    def __init__(
        self, dataset: Dataset, sampler: Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1
    ) -> None:
        """
        Args:
            shard_sampler: False if the sampler already gives each worker different indices.
        """
        if isinstance(dataset, IterableDataset) or not isinstance(sampler, Sampler):
            raise AssertionError(
                f"ToIterableDataset takes a map-style dataset and a Sampler, not {type(dataset).__name__} and "
                f"{type(sampler).__name__}."
            )
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None or not self.shard_sampler else (worker.id, worker.num_workers)
        for position, idx in enumerate(self.sampler):
            if position // self.shard_chunk_size % workers == number:
                yield self.dataset[idx]

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # PyTorch does not declare it, as for datasets


class AspectRatioGroupedDataset(IterableDataset):
    """Batches of dicts with "width" and "height" in which either all images or none are wider than high.

    The two groups are filled in parallel, and a batch is returned as soon as it is full. Incomplete groups are kept
    for the next iteration over the dataset.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: tuple[list[dict], list[dict]] = ([], [])

    def __iter__(self) -> Iterator[list[dict]]:
        for item in self.dataset:
            bucket = self._buckets[0 if item["width"] > item["height"] else 1]
            bucket.append(item)
            if len(bucket) == self.batch_size:
                batch = bucket.copy()
                bucket.clear()  # before the yield, after which this code may never be resumed
                yield batch
