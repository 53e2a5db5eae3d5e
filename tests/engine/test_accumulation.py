# SPDX-License-Identifier: Apache-2.0
"""Accumulated batches give the losses and gradients of one batch of all their images, on one rank and on two."""

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
    AnchorBoxQueries,
    BoxHead,
    DeformableDecoder,
    HungarianMatcher,
    LookForwardOnce,
    ObjectnessCriterion,
    ObjectnessProposalHead,
    SetCriterion,
    SoftmaxClasses,
    SoftmaxClassHead,
    TwoStageQueries,
)
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


def contrastive(groups=None):
    return FrozenContrastiveDenoising(CLASSES, groups or DynamicGroups(60))


def softmax(denoising=None):
    classes = SoftmaxClasses()
    sizes = {"embed_dim": DIM, "feedforward_dim": 64, "num_heads": 4, "num_levels": 4, "num_points": 2}
    decoder = DeformableDecoder(SoftmaxClassHead(DIM, CLASSES), BoxHead(DIM), LookForwardOnce(), num_layers=2, **sizes)
    detector = make_detector(queries=AnchorBoxQueries(QUERIES, DIM), decoder=decoder)
    return DETR(detector, SetCriterion(HungarianMatcher(classes=classes), classes=classes), denoising)


def two_stage():
    queries = TwoStageQueries(ObjectnessProposalHead(DIM, CLASSES), QUERIES, DIM)
    return DETR(make_detector(queries=queries), ObjectnessCriterion(HungarianMatcher()))


def criterion():
    return SetCriterion(HungarianMatcher())


def plain_denoising(groups=3):
    return FrozenDenoising(CLASSES, FixedGroups(groups))


#: Two images a batch and more objects than queries: of every loss and denoising, one model at least.
MODELS = {
    "dino": lambda: DETR(make_detector(), criterion(), contrastive()),
    "dino without denoising": lambda: DETR(make_detector(), criterion()),
    "groups of each image": lambda: DETR(make_detector(), criterion(), contrastive(DynamicGroupsPerImage(60))),
    "plain denoising": lambda: DETR(make_detector(), criterion(), plain_denoising()),
    "softmax": softmax,
    "softmax and denoising": lambda: softmax(plain_denoising()),
    "softmax and contrastive denoising": lambda: softmax(contrastive()),
    "two stages": two_stage,
    "known objects": lambda: KnownObjectDETR(
        KnownAtRandom(), detector=make_detector(), criterion=criterion(), denoising=plain_denoising(1)
    ),
    "known labels": lambda: KnownLabelDETR(make_detector(), criterion(), plain_denoising()),
}


def make_model(name: str) -> DETR:
    torch.manual_seed(0)
    return MODELS[name]().train()


def gradients_of_step(model, batches: list[list[dict]]) -> tuple[dict, dict]:
    """Gradients and logged losses of one step of the trainer."""
    torch.manual_seed(0)
    trainer = Trainer(
        model,
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


@pytest.mark.parametrize(("name", "size"), [("dino", 1), ("dino", 4), *((name, 2) for name in MODELS)])
def test_accumulated_batches_have_the_gradients_and_losses_of_the_whole_batch(name, size):
    whole, losses = gradients_of_step(make_model(name), [images()])
    parts, mean_losses = gradients_of_step(make_model(name), split(images(), size))
    assert mean_losses == pytest.approx(losses, rel=1e-5)
    assert_same(parts, whole, 1e-5)


def test_a_model_that_does_not_know_its_step_gets_the_mean_of_its_batches():
    class Plain(torch.nn.Linear):
        def forward(self, batch):
            return {"loss": super().forward(torch.stack([x["x"] for x in batch])).mean()}

    data = [[{"x": torch.full((2,), float(i)), "image_id": i}] for i in range(3)]
    gradients, _ = gradients_of_step(Plain(2, 1), data)
    assert gradients["weight"].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_one_batch_has_the_losses_of_the_batch_alone(name):
    alone = make_model(name)(images())
    model = make_model(name)
    in_a_step = model(images(), *model.parts_of_step([images()]))
    assert {n: v.item() for n, v in in_a_step.items()} == pytest.approx({n: v.item() for n, v in alone.items()})


def _gradients_of_both(names: tuple[str, ...], folder: Path) -> None:
    """Of the rank's images in one batch and in batches of two."""
    rank = comm.get_rank()
    mine = images()[rank * 4 :][:4]
    for name in names:
        for size in (2, 4):
            model = make_model(name)
            if model.denoising is not None:
                model.denoising.drawn = rank * 4
            parallel = create_ddp_model(model, broadcast_buffers=False, device_ids=None)
            torch.save(gradients_of_step(parallel, split(mine, size)), folder / f"{name} {size} {rank}.pt")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="gloo is for machines without a GPU")
def test_two_ranks_with_accumulation_have_the_gradients_of_two_without_and_of_one(tmp_path):
    names = ("dino", "softmax and denoising", "two stages", "dino without denoising")
    run_on_two_ranks(_gradients_of_both, names, tmp_path)
    for name in names:
        (parts, losses), (whole, whole_losses) = (torch.load(tmp_path / f"{name} {size} 0.pt") for size in (2, 4))
        assert losses == pytest.approx(whole_losses, rel=1e-5)
        assert_same(parts, whole, 1e-5)
    # Where no loss is a mean over a rank's own queries and no rank has slots of its own, one rank has the same.
    for name in ("two stages", "dino without denoising"):
        parts, losses = torch.load(tmp_path / f"{name} 2 0.pt")
        one, losses_of_one = gradients_of_step(make_model(name), [images()])
        assert losses == pytest.approx(losses_of_one, rel=1e-5)
        assert_same(parts, one, 1e-5)
