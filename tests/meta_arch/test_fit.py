# SPDX-License-Identifier: Apache-2.0
"""A detector and a denoising that do not fit together are refused when the model is built."""

import pytest
import torch

from dino_d2.denoising import Denoising
from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.modeling import META_ARCH_REGISTRY
from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.engine.config import read_config
from dino_d2.meta_arch import DETR
from dino_d2.modeling import IndicatedLabelEmbedding, LabelEmbedding, UnknownLabelEmbedding
from tests.paths import CONFIGS

RECIPES = sorted(str(p.relative_to(CONFIGS)) for p in CONFIGS.glob("*/*_tiny_shapes.py") if p.parent.name != "common")


def embedding(kind, classes: int = 5, less: int = 0):
    """Sets the label embedding, with ``less`` channels fewer than the detector has."""

    def change(cfg) -> None:
        dim = cfg.model.detector.embed_dim - less
        cfg.model.detector.label_embedding = L(kind)(num_classes=classes, embed_dim=dim)

    return change


def remove_embedding(cfg) -> None:
    cfg.model.detector.label_embedding = None


def remove_denoising(cfg) -> None:
    cfg.model.denoising = None


def add_denoising(cfg) -> None:
    cfg.model.denoising = L(Denoising)(num_classes=5)


def more_classes(cfg) -> None:
    cfg.model.denoising.num_classes = 9


REFUSED = {
    "no embedding": ("dino/dino_tiny_shapes.py", [remove_embedding], "needs model.detector.label_embedding"),
    "no anchors for points": (
        "deformable_detr/deformable_detr_tiny_shapes.py",
        [add_denoising, embedding(LabelEmbedding)],
        "ReferencePointQueries has no anchors",
    ),
    "no anchors for proposals": (
        "deformable_detr/deformable_detr_two_stage_tiny_shapes.py",
        [add_denoising, embedding(LabelEmbedding)],
        "TwoStageQueries has no anchors",
    ),
    "no anchors for embeddings": (
        "detr/detr_tiny_shapes.py",
        [add_denoising, embedding(LabelEmbedding)],
        "EmbeddedQueries has no anchors",
    ),
    "an indicator too many": (
        "dino/dino_tiny_shapes.py",
        [embedding(IndicatedLabelEmbedding)],
        "makes queries of 97 channels from the 96 of MixedQuerySelection",
    ),
    "an embedding too narrow": ("dino/dino_tiny_shapes.py", [embedding(LabelEmbedding, less=8)], "88 channels"),
    "an unknown class that does not fit": (
        "dn_detr/dn_detr_tiny_shapes.py",
        [embedding(UnknownLabelEmbedding, less=8)],
        "cannot take the content of",
    ),
    "the indicator is missing": (
        "dn_detr/dn_deformable_detr_plus_plus_tiny_shapes.py",
        [embedding(LabelEmbedding)],
        "95 channels",
    ),
    "nothing adds the indicator": (
        "dn_detr/dn_deformable_detr_plus_plus_tiny_shapes.py",
        [remove_denoising, remove_embedding],
        "makes queries of 95 channels, and the decoder has 96",
    ),
    "more classes in denoising": ("dino/dino_tiny_shapes.py", [more_classes], "model.denoising.num_classes is 9"),
    "fewer classes in the embedding": (
        "dn_detr/dn_detr_tiny_shapes.py",
        [embedding(UnknownLabelEmbedding, classes=4)],
        "has 4 classes",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_when_it_is_built(case):
    recipe, changes, words = REFUSED[case]
    cfg = read_config(str(CONFIGS / recipe))
    for change in changes:
        change(cfg)
    with pytest.raises(ValueError, match=words):
        instantiate(cfg.model)


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_denoising_every_trained_parameter_has_a_gradient(recipe):
    cfg = read_config(str(CONFIGS / recipe))
    cfg.model.denoising = None
    model = instantiate(cfg.model).train()
    objects = Instances((64, 64))
    objects.gt_boxes = Boxes(torch.tensor([[5.0, 5, 30, 30], [20, 20, 60, 50]]))
    objects.gt_classes = torch.tensor([0, 1])
    losses = model([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "instances": objects}])
    sum(losses.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_the_embedding_that_matching_queries_read_is_trained_without_denoising():
    cfg = read_config(str(CONFIGS / "dn_detr/dn_detr_tiny_shapes.py"), ["model.denoising=null"])
    model = instantiate(cfg.model)
    assert model.detector.label_embedding.weight.requires_grad


def test_the_registry_has_only_models_that_can_be_built_from_a_cfg():
    names = [name for name, thing in META_ARCH_REGISTRY if thing.__module__.startswith("dino_d2.meta_arch")]
    assert names == []
    assert not any(thing is DETR for _, thing in META_ARCH_REGISTRY)
