# SPDX-License-Identifier: Apache-2.0
"""Progressive inference: the best detection becomes a known object."""

import pytest
import torch

from dino_d2.detectron2.structures import Boxes, Instances
from dino_d2.meta_arch import ProgressiveInference


def test_progressive_inference_feeds_the_best_detection_back():
    def detect(batch):
        """Finds the objects 0.9, 0.8, 0.3, but for known ones; each is a pixel wide."""
        known = batch[0].get("known_objects")
        taken = [] if known is None else known.gt_classes.tolist()
        asked.append(taken)
        left = [(c, s) for c, s in ((0, 0.9), (1, 0.8), (2, 0.3)) if c not in taken]
        found = Instances((20, 40))
        found.pred_boxes = Boxes(torch.tensor([[c * 8.0, 0, c * 8 + 8, 10] for c, _ in left]).reshape(-1, 4))
        found.scores = torch.tensor([s for _, s in left])
        found.pred_classes = torch.tensor([c for c, _ in left], dtype=torch.int64)
        boxes.append(None if known is None else known.gt_boxes.tensor.tolist())
        return [{"instances": found}]

    asked, boxes = [], []
    image = {"image": torch.zeros(3, 10, 10, dtype=torch.uint8)}
    result = ProgressiveInference(steps=5, score_threshold=0.5)(detect, [image])[0]["instances"]
    assert asked == [[], [0], [0, 1]]  # the third is not confident enough to become known
    assert boxes[2] == [[0, 0, 2, 5], [2, 0, 4, 5]]  # in the pixels of the image, not of the output
    assert result.pred_classes.tolist() == [0, 1, 2]
    assert result.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])
    asked.clear()
    ProgressiveInference(steps=1)(detect, [image])
    assert asked == [[], [0]]
    asked.clear()
    given = Instances((10, 10))
    given.gt_boxes, given.gt_classes = Boxes(torch.tensor([[0.0, 0, 2, 5]])), torch.tensor([0])
    ProgressiveInference(steps=5)(detect, [image | {"known_objects": given}])
    assert asked == [[0], [0, 1]]  # what is known from the start stays known
    assert boxes[-1] == [[0, 0, 2, 5], [2, 0, 4, 5]]
