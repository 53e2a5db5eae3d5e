# SPDX-License-Identifier: Apache-2.0
"""Running a model over a dataset, as in `detectron2.evaluation.evaluator`."""

import datetime
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from ..utils.comm import get_world_size, is_main_process

logger = logging.getLogger("detectron2.evaluation.evaluator")


class DatasetEvaluator:
    """Collects the outputs of a model on a dataset, batch by batch, and evaluates them at the end."""

    def reset(self) -> None:
        """Forget all batches."""

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Collect the inputs and outputs of one batch."""

    def evaluate(self) -> dict[str, Any] | None:
        """The results as `{task: {metric: value}}`, on rank 0."""


class DatasetEvaluators(DatasetEvaluator):
    """Combines several evaluators; their results are merged and must have different keys."""

    def __init__(self, evaluators: list[DatasetEvaluator]) -> None:
        self._evaluators = evaluators

    def reset(self) -> None:
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        joined: dict[str, Any] = {}
        for evaluator in self._evaluators:
            result = evaluator.evaluate()  # on all ranks, for evaluators gather
            if not is_main_process() or result is None:
                continue
            if twice := joined.keys() & result.keys():
                raise AssertionError(f"Two evaluators have results called {sorted(twice)}.")
            joined |= result
        return joined


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator | MutableSequence[DatasetEvaluator] | None,
    callbacks: dict[str, Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """Run the model over a loader, without gradients and in eval mode, and return the evaluator's results.

    The log shows the time per iteration for data, model and evaluator, excluding the first iterations.

    Args:
        callbacks: functions for the events "on_start", "before_inference", "after_inference" (each batch) and "on_end".
    """
    total = len(data_loader)
    callbacks = defaultdict(lambda: lambda: None, callbacks or {})
    logger.info("Start inference on %d batches", total)
    # A list in a config is instantiated to OmegaConf's kind of list.
    if evaluator is None or isinstance(evaluator, MutableSequence):
        evaluator = DatasetEvaluators(list(evaluator or []))
    evaluator.reset()

    warmup = min(5, total - 1)
    times = {"Dataloading": 0.0, "Inference": 0.0, "Eval": 0.0}
    start = mark = last_log = time.perf_counter()

    def lap(part: str) -> None:
        nonlocal mark
        now = time.perf_counter()
        times[part] += now - mark
        mark = now

    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        callbacks["on_start"]()
        for idx, inputs in enumerate(data_loader):
            lap("Dataloading")
            if idx == warmup:
                start = mark
                times = dict.fromkeys(times, 0.0)
            callbacks["before_inference"]()
            outputs = model(inputs)
            callbacks["after_inference"]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            lap("Inference")
            evaluator.process(inputs, outputs)
            lap("Eval")
            done = idx + 1 - (warmup if idx >= warmup else 0)
            settled = idx >= warmup * 2 or times["Inference"] / done > 5
            if settled and mark - last_log >= 5:  # seconds between two log lines
                per_iter = (mark - start) / done
                parts = " ".join(f"{part}: {seconds / done:.4f} s/iter." for part, seconds in times.items())
                eta = datetime.timedelta(seconds=int(per_iter * (total - idx - 1)))
                last_log = mark
                message = f"Inference done {idx + 1}/{total}. {parts} Total: {per_iter:.4f} s/iter. ETA={eta}"
                logger.info(message)
        callbacks["on_end"]()

    for what, seconds in (("", time.perf_counter() - start), ("pure compute ", times["Inference"])):
        logger.info("Total inference %stime: %s (%.6f s / iter per device, on %d devices)",
                    what, datetime.timedelta(seconds=int(seconds)), seconds / (total - warmup),
                    get_world_size())  # fmt: skip
    return evaluator.evaluate() or {}


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Context in which the model is in eval mode; its former mode is restored afterwards."""
    training = model.training
    model.eval()
    yield
    model.train(training)
