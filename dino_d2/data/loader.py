# SPDX-License-Identifier: Apache-2.0
"""The training loader: batches that are a function of the seed and their number alone, so a run can be resumed.

Detectron2's loader seeds each worker once, so its augmentation depends on how many workers there are and on all
that they did before. Here every sample brings its own seed. Nothing in a worker has to be saved, and to go on
after k batches costs counting through their image numbers, not loading their images.
"""

import contextlib
import functools
import itertools
import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dino_d2.data.check import DatasetError
from dino_d2.detectron2.data import DatasetFromList
from dino_d2.detectron2.data.samplers import TrainingSampler
from dino_d2.detectron2.utils import comm

logger = logging.getLogger(__name__)

_ATTEMPTS = 100  # images tried in a row before "the mapper returns None" is taken for a fault


class Draw(NamedTuple):
    """One image of the stream that all ranks share: `index` in the dataset, `position` in the stream."""

    index: int
    position: int


class BatchOrder:
    """Which images make up which batch of this rank: Detectron2's order, without an end.

    The stream is that of Detectron2's `TrainingSampler`, one shuffle of the dataset after the other; rank r of
    n takes the positions r, r + n, r + 2n, ... With groups, a batch is given out as soon as one group has
    enough images for it, as Detectron2's loader does without workers.

    Args:
        size: images in the dataset.
        batch_size: images in a batch of this rank.
        seed: of the shuffling, the same on all ranks.
        groups: the group of each image, or None to take all images as they come.
    """

    def __init__(self, size: int, batch_size: int, seed: int, groups: list[int] | None = None):
        self.size, self.batch_size, self.seed, self.groups = size, batch_size, seed, groups

    def batches(self, start: int = 0) -> Iterator[list[Draw]]:
        """The batches from number `start` on."""
        return itertools.islice(self._batches(), start, None)

    def _batches(self) -> Iterator[list[Draw]]:
        waiting: dict[int, list[Draw]] = {}
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for count, index in enumerate(TrainingSampler(self.size, seed=self.seed)):
            group = 0 if self.groups is None else self.groups[index]
            batch = waiting.setdefault(group, [])
            batch.append(Draw(index, rank + world_size * count))
            if len(batch) == self.batch_size:
                yield waiting.pop(group)


class TrainLoader:
    """Endless batches of mapped dataset dicts. Its state is the number of batches it has given out.

    Iterating again goes on after the last batch that was taken; what workers had loaded ahead does not count.

    Args:
        samples: from a :class:`Draw` to what the model takes.
        order: of the batches.
        num_workers: processes that load images; with 0 the training process does. The batches are the same.
    """

    def __init__(self, samples: "MappedSamples", order: BatchOrder, num_workers: int):
        self.samples, self.order, self.num_workers = samples, order, num_workers
        self.position = 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        """
        Raises:
            DatasetError: when the turn comes to a batch with an image that cannot be used, in the words of the
                process that met it.
        """
        loader = DataLoader(
            self.samples,
            batch_sampler=_From(self.order, self.position),
            num_workers=self.num_workers,
            collate_fn=list,
            worker_init_fn=functools.partial(_let_trainer_handle_signals, os.getpid()),
            # DataLoader draws a number at its start: not from the generator that the training uses.
            generator=torch.Generator(),
        )
        for batch in loader:
            for sample in batch:
                if isinstance(sample, DatasetError):
                    raise sample
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int | bool]:
        return self._recipe() | {"batches": self.position}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Go on after the batches of `state`, with its seed, whatever seed this loader was made with.

        If the dataset, the batch size, the grouping or the number of ranks is another one now, the order cannot
        be the same. Then as many images are skipped as were taken, and a warning says so.
        """
        self.order.seed = self.samples.seed = state["seed"]
        recipe = self._recipe()
        changed = [f"{key} was {state[key]}, is {now}" for key, now in recipe.items() if state[key] != now]
        if changed:
            logger.warning("The data does not continue exactly where it stopped: %s.", "; ".join(changed))
        self.position = state["batches"] * state["total_batch_size"] // recipe["total_batch_size"]

    def _recipe(self) -> dict[str, int | bool]:
        """All that the batches depend on, but for the mapper and the images themselves."""
        world_size = comm.get_world_size()
        return {
            "seed": self.order.seed,
            "num_images": self.order.size,
            "total_batch_size": self.order.batch_size * world_size,
            "world_size": world_size,
            "aspect_ratio_grouping": self.order.groups is not None,
        }


class MappedSamples(Dataset):
    """Mapped dataset dicts by :class:`Draw`, each drawn from random generators of its own.

    Args:
        dicts: dataset dicts by index.
        mapper: from a dataset dict to what the model takes; None for an image to pass over.
        seed: with a sample's position, it seeds Python's, NumPy's and torch's generator around the mapper.
    """

    def __init__(self, dicts: Dataset, mapper: Callable[[dict], Any], seed: int):
        self.dicts, self.mapper, self.seed = dicts, mapper, seed

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, draw: Draw) -> Any:
        """The sample; or the `DatasetError`, which could not leave a worker without a traceback around it."""
        index = draw.index
        with seeded(self.seed, draw.position):
            for _ in range(_ATTEMPTS):
                try:
                    sample = self.mapper(self.dicts[index])
                except DatasetError as error:
                    return error
                if sample is not None:
                    return sample
                index = random.randrange(len(self.dicts))  # as Detectron2 does: some other image
        return DatasetError(
            f"The mapper returned None for {_ATTEMPTS} images in a row, the first of them image number "
            f"{draw.index} of the dataset. Look at what the mapper passes over."
        )


def build_train_loader(
    dataset: list[dict[str, Any]],
    *,
    mapper: Callable[[dict], Any],
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    seed: int | None = None,
) -> TrainLoader:
    """In place of Detectron2's `build_detection_train_loader`, for runs that can be resumed exactly.

    Args:
        dataset: dataset dicts, as from `get_detection_dataset_dicts`.
        mapper: from a dataset dict to what the model takes.
        total_batch_size: images in a batch over all ranks.
        aspect_ratio_grouping: no batch has both images that are wider than high and others.
        num_workers: loading processes of each rank.
        seed: of the order and the augmentation. None or negative: a random one, the same on all ranks.

    Returns:
        an endless iterable of lists of `total_batch_size / ranks` mapped dicts.

    Raises:
        TypeError: the dataset is not a list.
        DatasetError: an image has no width or height and the grouping needs it.
        ValueError: the ranks cannot share a batch evenly.
    """
    if not isinstance(dataset, list):
        raise TypeError(
            f"build_train_loader needs a list of dataset dicts, not a {type(dataset).__name__}. For a torch Dataset, "
            "put Detectron2's build_detection_train_loader into the config; it cannot be resumed exactly."
        )
    world_size = comm.get_world_size()
    if total_batch_size < 1 or total_batch_size % world_size:
        raise ValueError(
            f"dataloader.train.total_batch_size={total_batch_size} cannot be shared evenly by {world_size} ranks; "
            f"it must be a multiple of {world_size}."
        )
    if seed is None or seed < 0:
        seed = comm.shared_random_seed()
    groups = _wider_than_high(dataset) if aspect_ratio_grouping else None
    order = BatchOrder(len(dataset), total_batch_size // world_size, seed, groups)
    samples = MappedSamples(DatasetFromList(dataset, copy=False), mapper, seed)
    return TrainLoader(samples, order, num_workers)


@contextlib.contextmanager
def seeded(seed: int, position: int) -> Iterator[None]:
    """Python's, NumPy's and torch's CPU generator, seeded from the two numbers; afterwards as they were before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 augmentations draw from this one
    words = [int(word) for word in np.random.SeedSequence(seed, spawn_key=(position,)).generate_state(4)]
    with torch.random.fork_rng(devices=[]):
        try:
            random.seed(words[0])
            np.random.seed(words[1])  # noqa: NPY002
            # torch.manual_seed would seed the GPU as well, where the training draws its noise.
            torch.default_generator.manual_seed(words[2] << 32 | words[3])
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


class _From:
    """The batches from a number on, for `DataLoader`, which wants to call `iter` itself."""

    def __init__(self, order: BatchOrder, start: int):
        self.order, self.start = order, start

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.order.batches(self.start)


def _wider_than_high(dataset: list[dict[str, Any]]) -> list[int]:
    """1 for each image that is wider than high, 0 for the others."""
    for image in dataset:
        if "width" not in image or "height" not in image:
            raise DatasetError(
                f"Image id {image.get('image_id', 'unknown')} ({image.get('file_name', 'no file name')}) has no width "
                "or height, and dataloader.train.aspect_ratio_grouping sorts by them. Add them, or set it to False."
            )
    return [int(image["width"] > image["height"]) for image in dataset]


def _let_trainer_handle_signals(trainer_pid: int, worker_id: int) -> None:
    """Batch systems signal all processes of a job, but the workers must live on until the trainer has saved.

    SIGTERM from the trainer itself still ends a worker: that is how Python leaves no worker behind at its exit.
    """
    for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A handler is not told who sent the signal; a thread that waits for it is.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_leave_with, args=(trainer_pid,), daemon=True).start()


def _leave_with(trainer_pid: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer_pid:
        pass
    os._exit(0)
