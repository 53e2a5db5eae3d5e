# SPDX-License-Identifier: Apache-2.0
"""Duplicate predictions: cases by hand, and a slow obvious implementation."""

import numpy as np
import pytest
import torch

from dino_d2.detectron2.structures import Boxes, Instances, pairwise_iou
from dino_d2.detectron2.utils import comm
from dino_d2.evaluation import DuplicateEvaluator


def image(boxes, classes, size=(100, 100), image_id=1, file_size=None) -> dict:
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    height, width = file_size or size
    return {"instances": instances, "image_id": image_id, "height": height, "width": width}


def found(boxes, scores, classes, size=(100, 100)) -> dict:
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.tensor(scores, dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return {"instances": instances}


def evaluate(inputs, outputs, **thresholds) -> dict:
    evaluator = DuplicateEvaluator(**thresholds)
    evaluator.reset()
    evaluator.process(inputs, outputs)
    return evaluator.evaluate()["duplicates"]


def test_by_hand():
    boy, dog, cat = [10, 10, 30, 30], [50, 50, 80, 80], [0, 60, 20, 90]
    truth = image([boy, dog, cat], [0, 1, 2])
    detections = found(
        [boy, boy, boy, dog, dog, [70, 0, 90, 9], boy],
        [0.9, 0.6, 0.3, 0.8, 0.7, 0.9, 0.29],
        [0, 0, 0, 1, 2, 1, 0],  # three boys, a dog and the same taken for a cat, nothing at all, one not confident
    )
    assert evaluate([truth], [detections]) == pytest.approx(
        {"rate": 100 / 2, "boxes_per_object": (3 + 1) / 2, "confused": 100 / 2, "found": 200 / 3}
    )
    assert evaluate([truth], [detections], score_threshold=0.65)["rate"] == 0


def test_a_box_between_two_objects_counts_for_the_nearer_one():
    truth = image([[0, 0, 20, 20], [4, 0, 24, 20]], [0, 0])
    detections = found([[0, 0, 20, 20], [3, 0, 23, 20]], [0.9, 0.9], [0, 0])
    assert evaluate([truth], [detections])["rate"] == 0


def test_boxes_of_the_file_and_of_the_model_are_compared_in_one_size():
    truth = image([[10, 20, 30, 40]], [0], size=(100, 100), file_size=(200, 400))
    detections = found([[40, 40, 120, 80]], [0.9], [0], size=(200, 400))
    assert evaluate([truth], [detections])["found"] == 100


def test_nothing_to_count():
    assert np.isnan(evaluate([image([], [])], [found([], [], [])])["found"])
    empty = evaluate([image([[0, 0, 9, 9]], [0])], [found([], [], [])])
    assert empty["found"] == 0
    assert np.isnan(empty["rate"])


@pytest.mark.parametrize("seed", range(3))
def test_against_slow_loops(seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)

    def boxes(count):
        corner = torch.rand(count, 2, generator=generator) * 30
        return torch.cat([corner, corner + 20 + torch.rand(count, 2, generator=generator) * 10], 1).tolist()

    inputs, outputs, own, kinds = [], [], [], []
    for i, count in enumerate((4, 0, 7)):
        inputs.append(image(boxes(count), torch.randint(3, (count,), generator=generator).tolist(), image_id=i))
        scores = torch.rand(40, generator=generator).tolist()
        outputs.append(found(boxes(40), scores, torch.randint(3, (40,), generator=generator).tolist()))
        truth, detections = inputs[-1]["instances"], outputs[-1]["instances"]
        iou = pairwise_iou(detections.pred_boxes, truth.gt_boxes).tolist()
        claimed = [[] for _ in range(count)]
        for k, row in enumerate(iou):
            if count and detections.scores[k] >= 0.3 and max(row) >= 0.5:
                claimed[row.index(max(row))].append(int(detections.pred_classes[k]))
        own += [sum(c == int(truth.gt_classes[t]) for c in claims) for t, claims in enumerate(claimed)]
        kinds += [len(set(claims)) for claims in claimed]
    twice = [n > 1 for n in own if n]
    expected = {
        "rate": 100 * sum(twice) / len(twice),
        "boxes_per_object": sum(own) / len(twice),
        "confused": 100 * sum(k > 1 for k in kinds) / sum(k > 0 for k in kinds),
        "found": 100 * len(twice) / len(own),
    }
    assert 0 < expected["rate"] < 100
    assert evaluate(inputs, outputs) == pytest.approx(expected)

    shards = [DuplicateEvaluator(), DuplicateEvaluator()]
    shards[0].process(inputs[:2], outputs[:2])
    shards[1].process(inputs[1:], outputs[1:])
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [shard._counts for shard in shards])
    assert shards[0].evaluate()["duplicates"] == pytest.approx(expected)
