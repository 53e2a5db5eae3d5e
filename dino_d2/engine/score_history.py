# SPDX-License-Identifier: Apache-2.0
"""The scores of a run's evaluations, the best one, and the number of evaluations since."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple


class Score(NamedTuple):
    """The result of one evaluation."""

    iteration: int  # the last one before the evaluation, counted from 0 as in the names of checkpoints
    value: float


class ScoreHistory:
    """The scores of all evaluations of a run, in order.

    Args:
        metric: name of the result that is compared, such as "bbox/AP".
        mode: "max" if the largest value is the best one, "min" if the smallest is.
    """

    def __init__(self, metric: str, mode: Literal["max", "min"] = "max"):
        self.metric = metric
        self.mode = mode
        self.scores: list[Score] = []

    @property
    def best(self) -> Score | None:
        """The best finite score, the first one among equals; None if there is none yet."""
        finite = [score for score in self.scores if math.isfinite(score.value)]
        choose = max if self.mode == "max" else min  # both return the first of several equal scores
        return choose(finite, key=lambda score: score.value) if finite else None

    @property
    def since_best(self) -> int:
        """Evaluations after the best one; 0 while no score is finite."""
        best = self.best
        return 0 if best is None else len(self.scores) - 1 - self.scores.index(best)

    def has(self, iteration: int) -> bool:
        """Whether the weights after this iteration, or after a later one, were evaluated."""
        return bool(self.scores) and self.scores[-1].iteration >= iteration

    def add(self, iteration: int, value: float) -> bool:
        """Append a score; returns whether it is the best one."""
        score = Score(iteration, value)
        self.scores.append(score)
        return self.best is score

    def state_dict(self) -> dict[str, Any]:
        """Plain values, which ``torch.load(..., weights_only=True)`` reads."""
        return {"metric": self.metric, "mode": self.mode, "scores": [list(score) for score in self.scores]}

    def load_state_dict(self, state: Mapping[str, Any]) -> bool:
        """Continue from the scores of a checkpoint; returns False if those are of another metric and of no use here."""
        if (state["metric"], state["mode"]) != (self.metric, self.mode):
            return False
        self.scores = [Score(iteration, value) for iteration, value in state["scores"]]
        return True


def score_faults(state: Any) -> list[str]:
    """Descriptions of faults in a saved history; a missing one has none, since a run may have started without it."""
    if state is None:
        return []
    scores = state.get("scores") if isinstance(state, dict) else None
    if not isinstance(scores, list) or not all(isinstance(state.get(key), str) for key in ("metric", "mode")):
        return ["the scores of its evaluations are not a list with the name of their metric"]
    for score in scores:
        pair = score if isinstance(score, list) and len(score) == 2 else [None, None]
        if type(pair[0]) is not int or pair[0] < 0 or not isinstance(pair[1], float):
            return [f"one of the scores of its evaluations is {str(score)[:60]}"]
    return []
