# SPDX-License-Identifier: Apache-2.0
"""F1 over thresholds, against a loop over every threshold."""

import numpy as np
import pytest

from dino_d2.evaluation.thresholds import GRID, best_threshold, f1_curve, operate, ranking


def slow_f1(scores, hits, objects, threshold) -> float:
    right = sum(h for s, h in zip(scores, hits, strict=True) if s >= threshold)
    wrong = sum(not h for s, h in zip(scores, hits, strict=True) if s >= threshold)
    return 2 * right / (2 * right + wrong + (objects - right))


@pytest.mark.parametrize("seed", range(4))
def test_against_a_loop(seed):
    rng = np.random.default_rng(seed)
    scores = rng.random(60).round(2)  # with ties
    hits = rng.random(60) < scores
    objects = int(hits.sum()) + 5
    ranked = ranking(scores, hits, objects)
    np.testing.assert_allclose(f1_curve(ranked), [slow_f1(scores, hits, objects, t) for t in GRID])
    best = best_threshold(ranked)
    every = [slow_f1(scores, hits, objects, t) for t in scores]
    assert best.f1 == pytest.approx(max(every))
    assert best.f1 == pytest.approx(slow_f1(scores, hits, objects, best.threshold))
    kept = scores >= best.threshold
    assert best.precision == pytest.approx(hits[kept].mean())
    assert best.recall == pytest.approx(hits[kept].sum() / objects)


def test_the_best_threshold_lies_between_two_scores():
    best = best_threshold(ranking(np.array([0.8, 0.9, 0.2]), np.array([True, True, False]), 2))
    assert best == (0.5, 1.0, 1.0, 1.0)
    close = best_threshold(ranking(np.array([0.30012, 0.30011]), np.array([True, False]), 1))
    assert 0.30011 < close.threshold <= 0.30012


def test_of_equal_f1_the_highest_threshold_is_taken():
    best = best_threshold(ranking(np.array([0.9, 0.5, 0.4]), np.array([True, False, True]), 3))
    # one of one: 2 / 4; two of three: 4 / 6; so make both equal
    assert best.f1 == pytest.approx(4 / 6)
    best = best_threshold(ranking(np.array([0.9, 0.5, 0.4, 0.3]), np.array([True, False, False, True]), 2))
    assert best.f1 == pytest.approx(2 / 3)
    assert best.threshold == 0.7


def test_nothing_right_or_nothing_there():
    nothing = ranking(np.zeros(0), np.zeros(0, bool), 3)
    assert best_threshold(nothing) is None
    assert np.isnan(operate(nothing, 0.5).precision)
    assert operate(nothing, 0.5).recall == 0
    assert best_threshold(ranking(np.array([0.9]), np.array([False]), 0)) is None
    assert np.isnan(f1_curve(ranking(np.array([0.9]), np.array([False]), 0))).all()
