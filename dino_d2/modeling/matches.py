"""Which query was assigned to which object."""

from typing import NamedTuple

from torch import Tensor


class Matches(NamedTuple):
    """M matched pairs in each of L layers; pair m belongs to the same image in every layer."""

    image: Tensor  # [M] int64
    query: Tensor  # [L, M] int64
    target: Tensor  # [L, M] int64 index among the image's objects
