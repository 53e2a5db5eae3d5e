# SPDX-License-Identifier: Apache-2.0
"""The evaluation loader: Detectron2's order, with the training loader's transfer and messages."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from dino_d2.data.check import DatasetError
from dino_d2.data.dataset_dicts import DatasetDicts, JoinedDicts, shared_by_workers
from dino_d2.data.table.annotation_table import TableDicts
from dino_d2.data.transfer import pack
from dino_d2.data.workers import Reading, Watch, describe, explain_death, start_worker
from dino_d2.detectron2.data.samplers import InferenceSampler
from dino_d2.detectron2.utils.serialize import PicklableWrapper
from dino_d2.errors import UserError


class EvaluationLoader:
    """Batches of mapped dataset dicts; every iteration of the loader returns each image once over all ranks.

    Args:
        samples: map from an index to an input of the model.
        sampler: indices of this rank's images.
        batch_size: images in a batch; the last batch of a rank may have fewer.
        num_workers: processes that load images; 0 loads them in the main process.
        collate_fn: function from a list of inputs to a batch.
    """

    def __init__(
        self,
        samples: "EvaluationSamples",
        sampler: Sampler[int],
        batch_size: int,
        num_workers: int,
        collate_fn: Callable[[list], Any],
    ):
        self.samples, self.num_workers = samples, num_workers
        self.reading = samples.reading
        collate = functools.partial(_collate, collate_fn)
        self._loader = DataLoader(
            samples,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=functools.partial(pack, collate=collate) if num_workers else collate,
            worker_init_fn=functools.partial(start_worker, os.getpid(), self.reading),
            # DataLoader draws a random number when it starts; this must not change the generator of the training.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Batches of this rank."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """
        Raises:
            DatasetError: an image cannot be used.
        """
        batches = iter(self._loader)
        watch = Watch(self.reading, self.samples.dicts)
        for _ in range(len(self)):
            with watch.waiting():
                batch = next(batches)
            if isinstance(batch, DatasetError):
                raise batch
            yield batch

    def explain(self, error: Exception) -> UserError | None:
        """A UserError for an error of this loader, such as the death of a worker with the image it was reading."""
        return explain_death(error, self.reading, self.samples.dicts, "dataloader.test.num_workers")


class EvaluationSamples(Dataset):
    """Mapped dataset dicts by index.

    Args:
        dicts: dataset dicts.
        mapper: map from a dataset dict to an input of the model; None for the dataset dict itself.
        reading: where the index of the image that is being read is recorded.
    """

    def __init__(self, dicts: Sequence[dict], mapper: Callable[[dict], Any] | None, reading: Reading):
        # Under spawn and forkserver, plain pickle would not find a mapper that is defined in a config file.
        self.dicts, self.mapper, self.reading = dicts, None if mapper is None else PicklableWrapper(mapper), reading

    def __len__(self) -> int:
        return len(self.dicts)

    def __getitem__(self, index: int) -> Any:
        """The sample, or a `DatasetError`; raised in a worker, the error would be wrapped in the worker's traceback."""
        with self.reading.of(index):
            image = self.dicts[index]
            if self.mapper is None:
                return image
            try:
                sample = self.mapper(image)
            except DatasetError as error:
                return error
            if sample is None:
                # Detectron2's loader would take another image, which would then be evaluated twice.
                return DatasetError(
                    f"dataloader.test.mapper returned None for {describe(self.dicts[index])}. In evaluation each image "
                    "must be used: take it out of the dataset, or let the mapper return it."
                )
            return sample


def _collate(collate_fn: Callable[[list], Any], samples: list) -> Any:
    """The batch, or the first error among its samples."""
    for sample in samples:
        if isinstance(sample, DatasetError):
            return sample
    return collate_fn(samples)


def build_evaluation_loader(
    dataset: DatasetDicts,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: Sampler[int] | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> EvaluationLoader:
    """Replacement of Detectron2's `build_detection_test_loader`, with the same batches.

    A full /dev/shm does not stop it, and the death or the waiting of a loading process is reported with its image.

    Args:
        dataset: dataset dicts, as returned by `dino_d2.data.dataset_dicts.dataset_dicts`.
        mapper: map from a dataset dict to an input of the model; None for the dataset dict itself.
        sampler: indices of this rank's images; the default, `InferenceSampler`, gives each rank an equal share.
        batch_size: images per batch and rank.
        num_workers: loading processes per rank.
        collate_fn: function from a list of inputs to a batch; the default is the list itself.

    Raises:
        TypeError: the dataset is of another kind, such as a torch Dataset.
    """
    if not isinstance(dataset, list | TableDicts | JoinedDicts):
        raise TypeError(
            f"build_evaluation_loader needs a list of dataset dicts, not a {type(dataset).__name__}. For a torch "
            "Dataset, use Detectron2's build_detection_test_loader in the config."
        )
    samples = EvaluationSamples(shared_by_workers(dataset), mapper, Reading(num_workers))
    sampler = InferenceSampler(len(dataset)) if sampler is None else sampler
    return EvaluationLoader(samples, sampler, batch_size, num_workers, collate_fn or list)
