# SPDX-License-Identifier: Apache-2.0
"""What queries start with."""

import pytest
import torch

from dino_d2.meta_arch import DETR
from dino_d2.modeling import IndicatedLabelEmbedding, LabelEmbedding, SetCriterion, UnknownLabelEmbedding

CLASSES, DIM = 5, 8
LABELS = torch.tensor([[0, 4, -1]])


@pytest.mark.parametrize("kind", [LabelEmbedding, IndicatedLabelEmbedding, UnknownLabelEmbedding])
def test_padding_slots_start_as_zeros(kind):
    made = kind(CLASSES, DIM).denoising(LABELS)
    assert made.shape == (1, 3, DIM)
    assert not made[0, 2].any()
    assert made[0, :2].any(-1).all()


@pytest.mark.parametrize("kind", [IndicatedLabelEmbedding, UnknownLabelEmbedding])
def test_the_last_channel_tells_denoising_from_matching(kind):
    embedding = kind(CLASSES, DIM)
    denoising = embedding.denoising(LABELS)
    assert denoising[0, :, -1].tolist() == [1, 1, 0]
    assert torch.equal(denoising[0, 1, :-1], embedding.weight[4])
    width = DIM if kind is UnknownLabelEmbedding else DIM - 1
    matching = embedding.matching(torch.zeros(1, 2, width))
    assert matching.shape == (1, 2, DIM)
    assert not matching[..., -1].any()


def test_unknown_class_is_added_to_what_matching_queries_have():
    embedding = UnknownLabelEmbedding(CLASSES, DIM)
    content = torch.rand(2, 3, DIM)
    added = embedding.matching(content) - content
    assert torch.allclose(added[..., :-1], embedding.weight[CLASSES].expand(2, 3, -1), atol=1e-6)
    assert not embedding.denoising(torch.full((1, 1), CLASSES - 1)).isclose(added[0, 0]).all()


def test_denoising_without_an_embedding_of_labels_is_refused(make_model, make_detector):
    model = make_model()
    with pytest.raises(ValueError, match="label_embedding"):
        DETR(make_detector(label_embedding=None), SetCriterion(model.criterion.matcher), model.denoising)


def test_a_detector_without_denoising_needs_no_embedding_of_labels(make_detector):
    output = make_detector(label_embedding=None)(torch.rand(1, 3, 64, 64))
    assert output.boxes.isfinite().all()


def test_an_embedding_that_matching_queries_read_is_trained_without_denoising(make_model, make_detector):
    """DN-DETR's matching queries start with the "unknown" class; DINO's do not read the embedding."""
    model = make_model()
    width = model.detector.label_embedding.embedding_dim
    for embedding, is_trained in (
        (UnknownLabelEmbedding(CLASSES, width), True),
        (LabelEmbedding(CLASSES, width), False),
    ):
        without = DETR(make_detector(label_embedding=embedding), model.criterion, denoising=None)
        assert without.detector.label_embedding.weight.requires_grad == is_trained
