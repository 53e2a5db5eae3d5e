# SPDX-License-Identifier: Apache-2.0
import torch

from dino_d2.modeling import BestClasses, TopPairs


def test_the_best_scores_over_queries_and_classes_come_first():
    logits = torch.full((1, 3, 2), -10.0)
    logits[0, 2, 1], logits[0, 0, 0], logits[0, 2, 0] = 3.0, 2.0, 1.0
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1], [0.4, 0.6, 0.4, 0.2]]])
    detections = TopPairs(3)(logits, boxes)
    assert detections.classes.tolist() == [[1, 0, 0]]
    assert torch.allclose(detections.scores, torch.tensor([[3.0, 2.0, 1.0]]).sigmoid())
    expected = torch.tensor([[0.2, 0.5, 0.6, 0.7], [0.4, 0.4, 0.6, 0.6], [0.2, 0.5, 0.6, 0.7]])
    assert torch.allclose(detections.boxes[0], expected)


def test_top_k_beyond_all_pairs_gives_all_pairs():
    assert TopPairs(300)(torch.randn(2, 3, 2), torch.rand(2, 3, 4)).scores.shape == (2, 6)


def test_best_classes_are_one_a_query_and_never_no_object():
    logits = torch.tensor([[[0.0, 1.0, 9.0], [3.0, 1.0, 0.0]]])  # the last of three is "no object"
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.2, 0.4]]])
    detections = BestClasses()(logits, boxes)
    assert detections.classes.tolist() == [[0, 1]]
    assert torch.allclose(detections.scores[0], logits[0].softmax(-1)[[1, 0], [0, 1]])
    assert torch.allclose(detections.boxes[0, 0], torch.tensor([0.2, 0.1, 0.4, 0.5]))
