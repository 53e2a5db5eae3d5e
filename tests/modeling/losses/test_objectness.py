# SPDX-License-Identifier: Apache-2.0
"""Proposals of no class: they learn objects against background, as class 0, and are matched for themselves."""

import torch

from dino_d2.modeling import DetectorOutput, HungarianMatcher, ObjectnessCriterion, SetCriterion
from dino_d2.modeling.contracts import Proposals

CLASSES, TOKENS = 5, 9
NONE = torch.empty(0)


def predictions(seed, layers, count):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(layers, 2, count, CLASSES, generator=generator)
    return logits, torch.rand(layers, 2, count, 4, generator=generator) * 0.5 + 0.2


def test_losses_of_queries_are_as_ever_and_those_of_proposals_are_of_class_0():
    logits, boxes = predictions(0, 2, 6)
    token_logits, token_boxes = (x[0] for x in predictions(1, 1, TOKENS))
    labels = [torch.tensor([3, 1]), torch.tensor([4])]
    targets = [torch.tensor([[0.3, 0.4, 0.2, 0.2], [0.7, 0.6, 0.3, 0.2]]), torch.tensor([[0.5, 0.5, 0.4, 0.4]])]
    proposals = Proposals(NONE, NONE, token_logits, NONE, token_boxes)
    found = ObjectnessCriterion(HungarianMatcher())(DetectorOutput(logits, boxes, NONE, proposals), labels, targets)

    plain = SetCriterion(HungarianMatcher())
    queries = plain(DetectorOutput(logits, boxes, NONE, None), labels, targets)
    objects = [torch.zeros_like(x) for x in labels]
    tokens = plain(DetectorOutput(token_logits[None], token_boxes[None], NONE, None), objects, targets)
    assert found.keys() == queries.keys() | {f"{name}_enc" for name in tokens}
    assert all(torch.equal(found[name], value) for name, value in queries.items())
    assert all(torch.equal(found[f"{name}_enc"], value) for name, value in tokens.items())
