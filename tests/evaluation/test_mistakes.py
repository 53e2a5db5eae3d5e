# SPDX-License-Identifier: Apache-2.0
"""Confusions and mistakes: cases by hand, and sums that must agree."""

import numpy as np
import pytest

from dino_d2.evaluation.class_ap import UNMATCHED, evaluate_classes
from dino_d2.evaluation.mistakes import find_mistakes, pairwise_iou
from tests.coco_results import random_data, read, results_of, truth_of

ANT, BEE, CAT = 3, 4, 5


def mistakes_of(folder, objects, found, score_threshold=0.5, iou_threshold=0.5):
    truth, detections = read(folder, truth_of(objects), results_of(found))
    match = evaluate_classes(truth, detections, iou_threshold).match
    return find_mistakes(truth, detections, match, score_threshold, iou_threshold)


def test_by_hand(tmp_path):
    ant, bee, cat = [0, 0, 40, 40], [100, 0, 40, 40], [0, 100, 40, 40]
    found = [
        (1, ANT, ant, 0.9),
        (1, ANT, ant, 0.8),  # a duplicate
        (1, ANT, bee, 0.95),  # the wrong class
        (1, CAT, [0, 100, 40, 12], 0.7),  # IoU 0.3
        (1, BEE, [150, 150, 10, 10], 0.6),  # nothing there
        (1, CAT, cat, 0.4),  # below the threshold
        (2, CAT, [100, 100, 20, 20], 0.99),  # in the crowd
    ]
    objects = [(1, ANT, ant), (1, BEE, bee), (1, CAT, cat), (2, CAT, [90, 90, 60, 60], 1)]
    mistakes = mistakes_of(tmp_path, objects, found)
    assert mistakes.confusion.tolist() == [
        [1, 0, 0, 0],
        [1, 0, 0, 0],  # the bee is taken for an ant
        [0, 0, 0, 1],  # the cat is missed
        [1, 1, 1, 0],  # duplicate, nothing there, inexact box
    ]
    assert [(m.detection, m.kind, m.object, round(m.iou, 2)) for m in mistakes.false_positives] == [
        (2, "wrong class", 1, 1.0),
        (1, "duplicate", 0, 1.0),
        (3, "inexact box", 2, 0.3),
        (4, "background", -1, 0.0),
    ]
    assert mistakes.missed.tolist() == [1, 2]


def test_a_lower_threshold_finds_more(tmp_path):
    box = [0, 0, 40, 40]
    assert mistakes_of(tmp_path, [(1, ANT, box)], [(1, ANT, box, 0.4)], 0.5).missed.tolist() == [0]
    assert mistakes_of(tmp_path, [(1, ANT, box)], [(1, ANT, box, 0.4)], 0.4).missed.tolist() == []


def test_one_detection_of_another_class_per_object(tmp_path):
    box = [0, 0, 40, 40]
    found = [(1, BEE, box, 0.9), (1, CAT, box, 0.8)]
    confusion = mistakes_of(tmp_path, [(1, ANT, box)], found).confusion
    assert confusion[0].tolist() == [0, 1, 0, 0]
    assert confusion[3].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_each_object_and_each_detection_counts_once(seed, tmp_path):
    truth, detections = read(tmp_path, *random_data(seed))
    match = evaluate_classes(truth, detections, 0.5).match
    mistakes = find_mistakes(truth, detections, match, 0.3, 0.5)
    classes = len(truth.class_names)
    objects = np.bincount(truth.label[~truth.is_crowd], minlength=classes)
    np.testing.assert_array_equal(mistakes.confusion[:-1].sum(1), objects)
    counted = (detections.scores >= 0.3) & (match >= UNMATCHED)
    np.testing.assert_array_equal(
        mistakes.confusion[:, :-1].sum(0), np.bincount(detections.label[counted], minlength=classes)
    )
    assert np.trace(mistakes.confusion) == (match[counted] >= 0).sum()
    assert len(mistakes.missed) == objects.sum() - np.trace(mistakes.confusion)
    assert len(mistakes.false_positives) == (match[counted] == UNMATCHED).sum()
    assert {m.kind for m in mistakes.false_positives} >= {"wrong class", "duplicate"}


def test_iou():
    a = np.array([[0.0, 0, 10, 10], [0, 0, 0, 0]])
    assert pairwise_iou(a, np.array([[0.0, 0, 10, 5], [20, 20, 1, 1], [0, 0, 0, 0]])).tolist() == [
        [0.5, 0, 0],
        [0, 0, 0],
    ]
