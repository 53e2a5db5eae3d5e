import torch

from dino_d2.modeling.postprocess import select_detections


def test_the_best_scores_over_queries_and_classes_come_first():
    logits = torch.full((1, 3, 2), -10.0)
    logits[0, 2, 1], logits[0, 0, 0], logits[0, 2, 0] = 3.0, 2.0, 1.0
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1], [0.4, 0.6, 0.4, 0.2]]])
    detections = select_detections(logits, boxes, top_k=3)
    assert detections.classes.tolist() == [[1, 0, 0]]
    assert torch.allclose(detections.scores, torch.tensor([[3.0, 2.0, 1.0]]).sigmoid())
    expected = torch.tensor([[0.2, 0.5, 0.6, 0.7], [0.4, 0.4, 0.6, 0.6], [0.2, 0.5, 0.6, 0.7]])
    assert torch.allclose(detections.boxes[0], expected)


def test_top_k_beyond_all_pairs_gives_all_pairs():
    assert select_detections(torch.randn(2, 3, 2), torch.rand(2, 3, 4), top_k=300).scores.shape == (2, 6)
