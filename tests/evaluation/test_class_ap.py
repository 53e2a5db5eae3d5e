# SPDX-License-Identifier: Apache-2.0
"""AP by class equals one evaluation of all classes by pycocotools."""

import copy

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dino_d2.errors import UserError
from dino_d2.evaluation.class_ap import IGNORED, NOT_COUNTED, UNMATCHED, evaluate_classes, iou_index, mean_ap
from tests.coco_results import random_data, read, results_of, truth_of


def evaluated_at_once(truth: dict, results: list[dict], limit: int) -> COCOeval:
    coco = COCO()
    coco.dataset = copy.deepcopy(truth)
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
    evaluation.params.maxDets = [1, 2, limit]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


@pytest.mark.parametrize(("seed", "limit"), [(0, 100), (1, 100), (2, 3)])
def test_numbers_are_those_of_pycocotools(seed, limit, tmp_path):
    truth, results = random_data(seed)
    ap = evaluate_classes(*read(tmp_path, truth, results), max_dets_per_image=limit)
    expected = evaluated_at_once(truth, results, limit)
    precision = expected.eval["precision"][..., -1]
    np.testing.assert_array_equal(np.where(precision < 0, np.nan, precision), ap.precision)
    means = mean_ap(ap.precision)
    if limit == 100:
        expected.summarize()
        for name, value in zip(means, expected.stats, strict=False):
            assert means[name] == pytest.approx(100 * value, abs=1e-9), name
    assert 5 < means["AP"] < 95
    for k in range(3):
        values = precision[:, :, k, 0]
        assert mean_ap(ap.precision[:, :, k])["AP"] == pytest.approx(100 * values[values > -1].mean(), abs=1e-9)
    assert np.isnan(mean_ap(ap.precision[:, :, 3])["AP"])  # no object


def test_matches_at_one_threshold(tmp_path):
    truth = truth_of([(1, 3, [0, 0, 10, 10]), (1, 3, [50, 50, 40, 40], 1), (2, 4, [0, 0, 20, 20])])
    results = results_of(
        [
            (1, 3, [0, 0, 10, 6], 0.9),  # IoU 0.6
            (1, 3, [0, 0, 10, 10], 0.8),
            (1, 3, [60, 60, 10, 10], 0.7),  # in the crowd
            (2, 4, [0, 0, 20, 20], 0.6),
            (2, 5, [0, 0, 20, 20], 0.5),
            (1, 3, [90, 0, 10, 10], 0.1),  # the fourth of its class
        ]
    )
    data = read(tmp_path, truth, results)
    assert evaluate_classes(*data, 0.5, 3).match.tolist() == [0, UNMATCHED, IGNORED, 2, UNMATCHED, NOT_COUNTED]
    assert evaluate_classes(*data, 0.75, 3).match.tolist() == [UNMATCHED, 0, IGNORED, 2, UNMATCHED, NOT_COUNTED]


def test_another_iou_threshold_is_refused():
    assert iou_index(0.65) == 3
    with pytest.raises(UserError, match=r"--iou-threshold 0\.3"):
        iou_index(0.3)
