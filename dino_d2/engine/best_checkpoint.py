# SPDX-License-Identifier: Apache-2.0
"""Keeps the weights with the best evaluation of a run, and stops early if evaluations no longer improve."""

import contextlib
import difflib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dino_d2.detectron2.engine import HookBase
from dino_d2.detectron2.evaluation import COCOEvaluator
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError

from .checkpointer import BEST, FINAL, AtomicCheckpointer
from .loop import EvalHook, TrainingLoop
from .score_history import ScoreHistory

logger = logging.getLogger("dino_d2")

#: Results of Detectron2's box evaluator, except those of single classes such as "AP-person".
BOX_METRICS = tuple(f"bbox/{name}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl"))


class BestCheckpoint(HookBase):
    """Saves the weights after each evaluation that is better than all previous ones, and can stop training early.

    Unlike with Detectron2's ``BestCheckpointer``, ``last_checkpoint`` does not point to the best weights, so a resumed
    run does not go back to them, and the state of this hook is saved.

    The scores of all evaluations are part of the hook's state. A checkpoint is written before the evaluation of the
    same iteration; a run that is resumed from such a checkpoint repeats that evaluation first. At the end of training
    ``model_final.pth`` is written again, then with the last score.

    Register it directly after the evaluation hook, on all ranks.

    Args:
        checkpointer: of the weights that are evaluated.
        evaluation: the hook that evaluates.
        history: the scores; empty in a new run.
        patience: end the training after this many evaluations in a row without a better score; None never does.
    """

    trainer: TrainingLoop

    def __init__(
        self, checkpointer: AtomicCheckpointer, evaluation: EvalHook, history: ScoreHistory, patience: int | None = None
    ):
        self.checkpointer = checkpointer
        self.evaluation = evaluation
        self.history = history
        self.patience = patience

    @property
    def path(self) -> Path:
        """The file of the best weights."""
        return Path(self.checkpointer.save_dir) / BEST

    @property
    def has_lost_patience(self) -> bool:
        """Whether the last ``patience`` evaluations had no better score."""
        return self.patience is not None and self.history.since_best >= self.patience

    def before_train(self) -> None:
        best = self.history.best
        if best is not None and comm.is_main_process() and not self.path.is_file():
            logger.warning(
                "%s is missing. It held the weights after iteration %d, and is written again by an evaluation whose "
                "%s is better than %.4g.",
                self.path,
                best.iteration,
                self.history.metric,
                best.value,
            )
        done = self.trainer.start_iter
        if 0 < done < self.trainer.max_iter and self.evaluation.is_due(done - 1) and not self.history.has(done - 1):
            logger.info("The run was stopped before its evaluation after iteration %d, which is done now.", done - 1)
            with self._after_iteration(done - 1):
                self.trainer.storage.iter = done - 1  # of the results; the next step sets it again
                self.evaluation.evaluate()
                self._judge()

    def after_step(self) -> None:
        if self.evaluation.evaluated_after == self.trainer.iter:
            self._judge()

    def after_train(self) -> None:
        last = self.trainer.iter - 1
        if self.trainer.iter != self.trainer.max_iter or self.evaluation.evaluated_after != last:
            return  # the training or its last evaluation has failed
        with self._after_iteration(last):
            if not self.history.has(last):
                self._judge()
            self.checkpointer.save(Path(FINAL).stem, iteration=last)

    @contextlib.contextmanager
    def _after_iteration(self, iteration: int) -> Iterator[None]:
        """Context with the trainer's iteration as hooks see it after this iteration."""
        now = self.trainer.iter
        self.trainer.iter = iteration
        try:
            yield
        finally:
            self.trainer.iter = now

    def _judge(self) -> None:
        iteration, metric = self.trainer.iter, self.history.metric
        value = self._value()
        if self.history.add(iteration, value):
            logger.info("%s %.4g after iteration %d is the best so far: saving %s", metric, value, iteration, self.path)
            self.checkpointer.save_weights(self.path.stem, iteration=iteration, best={"metric": metric, "value": value})
            return
        logger.info("%s %.4g after iteration %d is not better than %s", metric, value, iteration, self._standing())
        if self.has_lost_patience and iteration + 1 < self.trainer.max_iter:
            logger.info(
                "Training ends early, after %d of %d iterations: evaluations in a row without a better %s: %d. %s has "
                "the best weights. To train on, give a larger train.early_stopping.patience with --resume.",
                iteration + 1,
                self.trainer.max_iter,
                metric,
                self.history.since_best,
                self.path,
            )
            self.trainer.max_iter = iteration + 1

    def _standing(self) -> str:
        best = self.history.best
        if best is None:
            return "any before: no value has been finite yet"
        limit = "" if self.patience is None else f"; evaluations since: {self.history.since_best} of {self.patience}"
        return f"{best.value:.4g} after iteration {best.iteration}{limit}"

    def _value(self) -> float:
        """The value of the metric in the evaluation just done, the same on all ranks.

        Raises:
            UserError: the evaluation has no such result; on all ranks.
        """
        storage = self.trainer.storage
        fresh = {name: value for name, (value, iteration) in storage.latest().items() if iteration == storage.iter}
        names = [name for name in fresh if "/" in name]  # of an evaluation: "bbox/AP"; losses have no task
        value, names = comm.all_gather((fresh.get(self.history.metric), names))[0]
        if value is None:
            raise UserError(
                f"{missing_metric(self.history.metric, names)} Correct it and continue with --resume: the checkpoints "
                "are complete"
            )
        return float(value)

    def state_dict(self) -> dict[str, Any]:
        return self.history.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not self.history.load_state_dict(state):
            logger.warning(
                "The best checkpoint is chosen again: earlier evaluations compared %s (%s), this run compares %s (%s).",
                state["metric"],
                state["mode"],
                self.history.metric,
                self.history.mode,
            )


def check_metric(metric: str, evaluator: Any) -> None:
    """Refuse a metric before training if the evaluation certainly does not report it.

    Args:
        metric: of ``train.best``.
        evaluator: one or several, as built for the run; results of custom evaluators are not known.

    Raises:
        UserError: with the results there are.
    """
    evaluators = evaluator if isinstance(evaluator, list | tuple) else [evaluator]
    if any(type(one) is not COCOEvaluator for one in evaluators):
        return
    if metric not in BOX_METRICS and not (metric.startswith("bbox/") and "-" in metric):
        raise UserError(missing_metric(metric, [*BOX_METRICS, "bbox/AP-CLASS"]))


def missing_metric(metric: str, names: list[str]) -> str:
    """That an evaluation gives no such result, with the nearest ones that it gives."""
    if not names:
        return f"train.best={metric}: the evaluation has no results."
    near = difflib.get_close_matches(metric, names, n=1, cutoff=0.4)
    more = f", and {len(names) - 8} more" if len(names) > 8 else ""
    return (
        f"train.best={metric}: the evaluation has no such result."
        + (f" Did you mean {near[0]}?" if near else "")
        + f" It has {', '.join(names[:8])}{more}."
    )
