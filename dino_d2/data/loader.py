# SPDX-License-Identifier: Apache-2.0
"""The training loader: each batch depends only on the seed and the batch number, so runs can be resumed exactly.

Detectron2's loader seeds each worker once, so its augmentation depends on the number of workers and on everything they
have done before. Here every sample has its own seed. Workers have no state to save, and continuing after k batches
requires skipping their image indices but not loading their images.
"""

import contextlib
import functools
import itertools
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dino_d2.data.check import DatasetError
from dino_d2.data.dataset_dicts import DatasetDicts, JoinedDicts, shared_by_workers, wider_than_high
from dino_d2.data.table.annotation_table import TableDicts
from dino_d2.data.transfer import pack
from dino_d2.data.workers import Reading, Watch, explain_death, start_worker
from dino_d2.detectron2.data import DatasetFromList
from dino_d2.detectron2.data.samplers import TrainingSampler
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.serialize import PicklableWrapper
from dino_d2.errors import UserError

logger = logging.getLogger(__name__)

_ATTEMPTS = 100  # if the mapper returns None for this many images in a row, loading fails


class Draw(NamedTuple):
    """One image of the sequence that all ranks share: `index` in the dataset, `position` in the sequence."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    position: int


class BatchOrder:
    """Infinite sequence of the images in each batch of this rank, in Detectron2's order.

    All ranks share the sequence of Detectron2's `TrainingSampler`, which shuffles the dataset for each epoch. Rank
    r of n takes the positions r, r + n, r + 2n, ... With groups, a batch is returned as soon as one group has enough
    images, as in Detectron2's loader without workers.

    Args:
        size: images in the dataset.
        batch_size: images in a batch of this rank.
        seed: seed of the shuffling, the same on all ranks.
        groups: the group of each image, bool [size]; None to form batches in the order of the sequence.
    """

    def __init__(self, size: int, batch_size: int, seed: int, groups: Sequence | np.ndarray | None = None):
        self.size, self.batch_size, self.seed, self.groups = size, batch_size, seed, groups

    def batches(self, start: int = 0) -> Iterator[list[Draw]]:
        """Batches, starting with number `start`."""
        return itertools.islice(self._batches(), start, None)

    def _batches(self) -> Iterator[list[Draw]]:
        waiting: dict[int, list[Draw]] = {}
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for count, index in enumerate(TrainingSampler(self.size, seed=self.seed)):
            group = 0 if self.groups is None else int(self.groups[index])
            batch = waiting.setdefault(group, [])
            batch.append(Draw(index, rank + world_size * count))
            if len(batch) == self.batch_size:
                yield waiting.pop(group)


class TrainLoader:
    """Infinite iterable of batches of mapped dataset dicts. Its state is the number of batches it has returned.

    A new iterator continues after the last returned batch. Batches that workers have loaded in advance do not count.

    Args:
        samples: map from a :class:`Draw` to an input of the model.
        order: order of the batches.
        num_workers: processes that load images; 0 loads them in the training process. The batches do not depend on it.
    """

    def __init__(self, samples: "MappedSamples", order: BatchOrder, num_workers: int):
        self.samples, self.order, self.num_workers = samples, order, num_workers
        self.position = 0
        self.reading = Reading(num_workers)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """
        Raises:
            DatasetError: a batch has an image that cannot be used. It is raised when that batch is due, with the
                message of the worker that loaded it.
        """
        loader = DataLoader(
            _Recorded(self.samples, self.reading),
            batch_sampler=_From(self.order, self.position),
            num_workers=self.num_workers,
            collate_fn=pack if self.num_workers else list,
            worker_init_fn=functools.partial(start_worker, os.getpid(), self.reading),
            # DataLoader draws a random number when it starts; this must not change the generator of the training.
            generator=torch.Generator(),
        )
        batches = iter(loader)
        watch = Watch(self.reading, self.samples.dicts)
        while True:  # the order is infinite
            with watch.waiting():
                batch = next(batches)
            for sample in batch:
                if isinstance(sample, DatasetError):
                    raise sample
            self.position += 1
            yield batch

    def explain(self, error: Exception) -> UserError | None:
        """A UserError for an error of this loader, such as the death of a worker with the image it was reading."""
        return explain_death(
            error,
            self.reading,
            self.samples.dicts,
            "dataloader.train.num_workers",
            "Continue from the last checkpoint with --resume",
        )

    def state_dict(self) -> dict[str, int | bool]:
        return self._recipe() | {"batches": self.position}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Continue after the batches of `state`, with the seed of `state` instead of this loader's.

        If the dataset, the batch size, the grouping or the number of ranks has changed, the order cannot be the same.
        In that case as many images are skipped as had been used, with a warning.
        """
        self.order.seed = self.samples.seed = state["seed"]
        recipe = self._recipe()
        changed = [f"{key} was {state[key]}, is now {now}" for key, now in recipe.items() if state[key] != now]
        if changed:
            logger.warning("The data does not continue exactly where it stopped: %s.", "; ".join(changed))
        self.position = state["batches"] * state["total_batch_size"] // recipe["total_batch_size"]

    def _recipe(self) -> dict[str, int | bool]:
        """Everything that determines the batches, except the mapper and the images."""
        world_size = comm.get_world_size()
        return {
            "seed": self.order.seed,
            "num_images": self.order.size,
            "total_batch_size": self.order.batch_size * world_size,
            "world_size": world_size,
            "aspect_ratio_grouping": self.order.groups is not None,
        }


class MappedSamples(Dataset):
    """Mapped dataset dicts by :class:`Draw`. Each sample has its own random numbers.

    Args:
        dicts: dataset dicts by index.
        mapper: map from a dataset dict to an input of the model, or to None for an image to skip.
        seed: together with a sample's position, the seed of Python's, NumPy's and torch's generators for the mapper.
    """

    def __init__(self, dicts: Sequence[dict] | DatasetFromList, mapper: Callable[[dict], Any], seed: int):
        # Under spawn and forkserver, plain pickle would not find a mapper that is defined in a config file.
        self.dicts, self.mapper, self.seed = dicts, PicklableWrapper(mapper), seed

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, draw: Draw) -> Any:
        """The sample, or a `DatasetError`; raised in a worker, the error would be wrapped in the worker's traceback."""
        index = draw.index
        with seeded(self.seed, draw.position):
            for _ in range(_ATTEMPTS):
                try:
                    sample = self.mapper(self.dicts[index])
                except DatasetError as error:
                    return error
                if sample is not None:
                    return sample
                index = random.randrange(len(self.dicts))  # a random other image, as in Detectron2
        return DatasetError(
            f"The mapper returned None for {_ATTEMPTS} images in a row; the first one has index {draw.index} in the "
            "dataset. Check which images the mapper skips."
        )


def build_train_loader(
    dataset: DatasetDicts,
    *,
    mapper: Callable[[dict], Any],
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int | None = None,
) -> TrainLoader:
    """Replacement of Detectron2's `build_detection_train_loader` for runs that can be resumed exactly.

    Args:
        dataset: dataset dicts, as returned by `dataset_dicts` or Detectron2's `get_detection_dataset_dicts`.
        mapper: map from a dataset dict to an input of the model.
        total_batch_size: images per batch, over all ranks.
        aspect_ratio_grouping: form batches of only wide images (width above height) or only other images.
        num_workers: loading processes per rank.
        seed: seed of the order and the augmentation. None or a negative value selects a random seed for all ranks.

    Returns:
        an infinite iterable of lists of `total_batch_size / ranks` mapped dicts.

    Raises:
        TypeError: the dataset is something else.
        DatasetError: an image has no width or height, which the grouping needs.
        ValueError: `total_batch_size` is not a positive multiple of the number of ranks.
    """
    if not isinstance(dataset, list | TableDicts | JoinedDicts):
        raise TypeError(
            f"build_train_loader needs a list of dataset dicts, not a {type(dataset).__name__}. For a torch Dataset, "
            "use Detectron2's build_detection_train_loader in the config; its runs cannot be resumed exactly."
        )
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(
            f"dataloader.train.total_batch_size={total_batch_size} cannot be shared evenly by {world_size} ranks; "
            f"it must be a multiple of {world_size}."
        )
    if seed is None or seed < 0:
        seed = comm.shared_random_seed()
    groups = wider_than_high(dataset) if aspect_ratio_grouping else None
    order = BatchOrder(len(dataset), total_batch_size // world_size, seed, groups)
    samples = MappedSamples(shared_by_workers(dataset), mapper, seed)
    return TrainLoader(samples, order, num_workers)


@contextlib.contextmanager
def seeded(seed: int, position: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and torch (CPU) from two numbers, and restore their states at the end."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 augmentations draw from this one
    words = [int(word) for word in np.random.SeedSequence(seed, spawn_key=(position,)).generate_state(4)]
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(words[0])
            np.random.seed(words[1])  # noqa: NPY002
            # torch.manual_seed would also seed the GPU, whose generator the training uses for noise.
            torch.default_generator.manual_seed(words[2] << 32 | words[3])
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class _Recorded(Dataset):
    """Samples, each with a note for the trainer while it is read."""

    def __init__(self, samples: MappedSamples, reading: Reading):
        self.samples, self.reading = samples, reading

    def __getitem__(self, draw: Draw) -> Any:
        with self.reading.of(draw.index):
            return self.samples[draw]


class _From:
    """The batches from number `start` on, as an iterable for `DataLoader`."""

    def __init__(self, order: BatchOrder, start: int):
        self.order, self.start = order, start

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.order.batches(self.start)
