# SPDX-License-Identifier: Apache-2.0
import itertools

import pytest
import torch

from dino_d2.modeling import HungarianMatcher


def random_problem(num_layers, num_queries, counts, num_classes=6):
    torch.manual_seed(sum(counts))
    logits = torch.randn(num_layers, len(counts), num_queries, num_classes)
    boxes = torch.rand(num_layers, len(counts), num_queries, 4) * 0.5 + 0.1
    labels = [torch.randint(num_classes, (n,)) for n in counts]
    targets = [torch.rand(n, 4) * 0.5 + 0.1 for n in counts]
    return logits, boxes, labels, targets


def test_the_assignment_is_the_cheapest_of_all():
    logits, boxes, labels, targets = random_problem(3, 5, [3, 2])
    matcher = HungarianMatcher()
    matches = matcher(logits, boxes, labels, targets)
    for layer, image in itertools.product(range(3), range(2)):
        one = slice(image, image + 1)
        cost = matcher.cost(logits[:, one], boxes[:, one], labels[image][None], targets[image][None])[layer, 0]
        count = len(labels[image])
        best = min(
            sum(cost[q, t].item() for t, q in enumerate(queries)) for queries in itertools.permutations(range(5), count)
        )
        mine = matches.image == image
        found = cost[matches.query[layer, mine], matches.target[layer, mine]].sum().item()
        assert found == pytest.approx(best, abs=1e-5)


def test_cost_by_hand():
    logits = torch.zeros(1, 1, 1, 2)  # probability 1/2
    box = torch.tensor([0.5, 0.5, 0.2, 0.2]).view(1, 1, 1, 4)
    target = torch.tensor([[[0.5, 0.5, 0.4, 0.2]]])
    cost = HungarianMatcher(class_cost=2.0, bbox_cost=5.0, giou_cost=2.0).cost(logits, box, torch.tensor([[1]]), target)
    log2 = 0.6931472
    class_cost = 0.25 * 0.25 * log2 - 0.75 * 0.25 * log2
    assert cost.item() == pytest.approx(2 * class_cost + 5 * 0.2 - 2 * 0.5, abs=1e-4)


def test_fewer_queries_than_objects_and_images_without_objects():
    logits, boxes, labels, targets = random_problem(2, 3, [5, 0, 2])
    matches = HungarianMatcher()(logits, boxes, labels, targets)
    assert matches.image.tolist() == [0, 0, 0, 2, 2]
    assert matches.query.shape == matches.target.shape == (2, 5)


def test_no_objects_at_all():
    logits, boxes, labels, targets = random_problem(2, 3, [0, 0])
    matches = HungarianMatcher()(logits, boxes, labels, targets)
    assert matches.query.shape == (2, 0)


def test_a_prediction_that_is_not_a_number_is_left_unmatched():
    logits, boxes, labels, targets = random_problem(1, 4, [3])
    logits[0, 0, 2] = float("nan")
    assert 2 not in HungarianMatcher()(logits, boxes, labels, targets).query
