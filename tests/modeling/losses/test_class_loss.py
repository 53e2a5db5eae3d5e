# SPDX-License-Identifier: Apache-2.0
"""Class losses against PyTorch's own, and what they cost in matching."""

import pytest
import torch
import torch.nn.functional as F

from dino_d2.modeling import SoftmaxClasses
from dino_d2.modeling.losses.matches import Matches

LAYERS, IMAGES, QUERIES, CLASSES = 2, 2, 4, 5
LABELS = torch.tensor([[3, 1], [0, 0]])  # the second image has one object
MATCHES = Matches(
    image=torch.tensor([0, 0, 1]),
    query=torch.tensor([[0, 2, 1], [3, 1, 0]]),
    target=torch.tensor([[1, 0, 0], [0, 1, 0]]),
)


@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_softmax_loss_is_pytorchs_weighted_cross_entropy(weight):
    torch.manual_seed(0)
    logits = torch.randn(LAYERS, IMAGES, QUERIES, CLASSES + 1)
    losses = SoftmaxClasses(weight).loss(logits, MATCHES, LABELS, torch.tensor(3.0))
    for layer in range(LAYERS):
        target = torch.full((IMAGES, QUERIES), CLASSES)
        for image, query, index in zip(MATCHES.image, MATCHES.query[layer], MATCHES.target[layer], strict=True):
            target[image, query] = LABELS[image, index]
        weights = torch.ones(CLASSES + 1)
        weights[-1] = weight
        expected = F.cross_entropy(logits[layer].transpose(1, 2), target, weights)
        assert losses[layer].item() == pytest.approx(expected.item(), rel=1e-6)


def test_softmax_cost_is_minus_the_probability():
    torch.manual_seed(0)
    logits = torch.randn(LAYERS, IMAGES, QUERIES, CLASSES + 1)
    cost = SoftmaxClasses().cost(logits, LABELS)
    assert cost.shape == (LAYERS, IMAGES, QUERIES, 2)
    assert torch.allclose(cost[1, 0, 2], -logits[1, 0, 2].softmax(-1)[[3, 1]])
