# SPDX-License-Identifier: Apache-2.0
"""Accumulated batches give the losses and gradients of one batch of all their images, on one rank and on two."""

import copy
from pathlib import Path

import pytest
import torch

from dino_d2.denoising import (
    ContrastiveDenoising,
    Denoising,
    DynamicGroups,
    DynamicGroupsPerImage,
    FixedGroups,
    NoiseDraws,
)
from dino_d2.detectron2.engine.defaults import create_ddp_model
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine import Trainer
from dino_d2.meta_arch import DETR, KnownAtRandom, KnownLabelDETR, KnownObjectDETR
from dino_d2.modeling import (
    ClassHead,
    HungarianMatcher,
    ObjectnessCriterion,
    ObjectnessProposalHead,
    SetCriterion,
    SoftmaxClasses,
    TwoStageQueries,
)
from dino_d2.modeling.queries import base
from tests.small_models import CLASSES, DIM, QUERIES, make_detector, make_input
from tests.two_ranks import run_on_two_ranks

#: Objects of each image of a step. Batches of two differ as much as they can, and one has no object.
COUNTS = (1, 9, 0, 0, 4, 2, 30, 3)


class FrozenNoise:
    """Gives each image its own noise, whatever batch it is in. Mixed into a denoising module."""

    def draw(self, shape, device, generator):
        """The rows of the next images."""
        first, self.drawn = getattr(self, "drawn", 0), getattr(self, "drawn", 0) + shape[0]
        rows = [super(FrozenNoise, self).draw((1, *shape[1:]), device, seeded(i)) for i in range(first, self.drawn)]
        return NoiseDraws(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class FrozenDenoising(FrozenNoise, Denoising):
    pass


class FrozenContrastiveDenoising(FrozenNoise, ContrastiveDenoising):
    pass


def focal(**options):
    return SetCriterion(HungarianMatcher(), **options)


def contrastive(groups=None):
    return FrozenContrastiveDenoising(CLASSES, groups or DynamicGroups(60))


def dino():
    return DETR(make_detector(), focal(), contrastive())


MODELS = {"dino": dino}


def gradients_of_step(model, batches: list[list[dict]]) -> tuple[dict, dict]:
    """Gradients and logged losses of one step of the trainer."""
    torch.manual_seed(0)
    trainer = Trainer(
        model.train(),
        batches,
        torch.optim.SGD(model.parameters(), lr=0.0),
        clip_grad_norm=1e9,
        accumulate=len(batches),
    )
    with EventStorage(0) as trainer.storage:
        trainer.run_step()
    losses = {name: value for name, (value, _) in trainer.storage.latest().items() if "loss" in name}
    gradients = {name.removeprefix("module."): p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients, losses


def images(counts=COUNTS) -> list[dict]:
    return [make_input(64, 96, objects=n, seed=seed) for seed, n in enumerate(counts)]


def split(batch: list[dict], size: int) -> list[list[dict]]:
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def assert_same(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= tolerance * gradient.abs().max() + 1e-9, name


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_accumulated_batches_have_the_gradients_and_losses_of_the_whole_batch(name, size):
    whole, losses = gradients_of_step(MODELS[name](), [images()])
    parts, mean_losses = gradients_of_step(MODELS[name](), split(images(), size))
    assert mean_losses == pytest.approx(losses, rel=1e-5)
    for n, g in whole.items():
        print(n, ((parts[n] - g).abs().max() / g.abs().max()).item())
    assert_same(parts, whole, 1e-5)
