# SPDX-License-Identifier: Apache-2.0
"""Small models with known objects or labels."""

import pytest

from dino_d2.denoising import Denoising, FixedGroups
from dino_d2.meta_arch import KnownObjectDETR
from dino_d2.modeling import HungarianMatcher, SetCriterion

CLASSES, QUERIES, DIM = 5, 20, 32


@pytest.fixture
def make_known(make_detector):
    def make(kind=KnownObjectDETR, **extra):
        denoising = Denoising(CLASSES, FixedGroups(1))
        parts = extra.pop("parts", {})
        return kind(
            detector=make_detector(**parts), criterion=SetCriterion(HungarianMatcher()), denoising=denoising, **extra
        )

    return make
