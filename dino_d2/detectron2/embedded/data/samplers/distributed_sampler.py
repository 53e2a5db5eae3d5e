# SPDX-License-Identifier: Apache-2.0
"""Which image goes to which rank, as in `detectron2.data.samplers.distributed_sampler`."""

import itertools
from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from ...utils import comm


class TrainingSampler(Sampler):
    """An endless stream of indices, one shuffle of the dataset after the other, dealt out to the ranks in turn."""

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


class InferenceSampler(Sampler):
    """Every index once over all ranks: each rank has one run of neighbours, the first ranks one index more."""

    def __init__(self, size: int) -> None:
        if size <= 0:
            raise AssertionError(f"InferenceSampler needs a positive size, not {size}.")
        each, more = divmod(size, comm.get_world_size())
        rank = comm.get_rank()
        begin = rank * each + min(rank, more)
        self._local_indices = range(begin, begin + each + (rank < more))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
