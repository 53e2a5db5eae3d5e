# SPDX-License-Identifier: Apache-2.0
"""The assignment of queries to objects."""

from typing import NamedTuple

from torch import Tensor


class Matches(NamedTuple):
    """P matched pairs in each of L layers; pair p belongs to the same image in every layer."""

    image: Tensor  # [P] int64
    query: Tensor  # [L, P] int64
    target: Tensor  # [L, P] int64 index among the image's objects
