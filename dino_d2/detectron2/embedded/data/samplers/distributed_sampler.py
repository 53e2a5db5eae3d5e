# SPDX-License-Identifier: Apache-2.0
"""Samplers that distribute images among ranks, as in `detectron2.data.samplers.distributed_sampler`."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from ...utils import comm

logger = logging.getLogger("detectron2.data.samplers.distributed_sampler")


class TrainingSampler(Sampler):
    """An endless stream of indices: one permutation of the dataset after another, distributed to the ranks in turn."""

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None) -> None:
        """
        Args:
            size: the number of images, at least 1.
            seed: of the shuffling, the same on all ranks; by default a shared random one.
        """
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler needs an int for the size, not {type(size).__name__}.")
        if size <= 0:
            raise ValueError(f"TrainingSampler needs a positive size, not {size}.")
        self._size = size
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            if self._shuffle:
                yield from torch.randperm(self._size, generator=generator).tolist()
            else:
                yield from range(self._size)


class RepeatFactorTrainingSampler(Sampler):
    """An endless stream of indices in which images of rare classes are more frequent (LVIS, appendix B.2).

    In each pass over the dataset, image i appears `repeat_factors[i]` times on average, rounded up or down at random.
    The indices are distributed to the ranks in turn.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None) -> None:
        """
        Args:
            repeat_factors: float `[number of images]`.
            shuffle: whether to shuffle each pass.
            seed: of rounding and shuffling, the same on all ranks; by default a shared random one.
        """
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()
        self._int_part = torch.trunc(repeat_factors)
        self._frac_part = repeat_factors - self._int_part

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """The repeat factor of each image, float `[number of images]`: that of its rarest class, at least 1.

        Args:
            repeat_thresh: t in a class's factor max(1, sqrt(t / f)), where f is the fraction of images that have the
                class. Classes with f >= t are not repeated.
            sqrt: False for the factor max(1, t / f).
        """
        classes = [{annotation["category_id"] for annotation in image["annotations"]} for image in dataset_dicts]
        images = Counter(itertools.chain.from_iterable(classes))
        ratios = {category: repeat_thresh / (count / len(dataset_dicts)) for category, count in images.items()}
        factors = {category: max(1.0, math.sqrt(ratio) if sqrt else ratio) for category, ratio in ratios.items()}
        for category in sorted(factors):
            frequency = images[category] / len(dataset_dicts)
            logger.info("Cat ID %s: freq=%.2f, rep=%.2f", category, frequency, factors[category])
        of_images = [max((factors[category] for category in of_image), default=1.0) for of_image in classes]
        return torch.tensor(of_images, dtype=torch.float32)

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._infinite_indices(), self._rank, None, self._world_size)

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            indices = self._get_epoch_indices(generator)
            if self._shuffle:
                indices = indices[torch.randperm(len(indices), generator=generator)]
            yield from indices.tolist()

    def _get_epoch_indices(self, generator: torch.Generator) -> torch.Tensor:
        is_rounded_up = torch.rand(len(self._frac_part), generator=generator) < self._frac_part
        times = (self._int_part + is_rounded_up.float()).long()
        return torch.repeat_interleave(torch.arange(len(times)), times)


class InferenceSampler(Sampler):
    """Every index on exactly one rank: each rank has one contiguous range; the first ranks have one index more."""

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise AssertionError(f"InferenceSampler needs a positive size, not {size}.")
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        each, more = divmod(total_size, world_size)
        begin = rank * each + min(rank, more)
        return range(begin, begin + each + (rank < more))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
