# SPDX-License-Identifier: Apache-2.0
"""What happens beside the training steps, as in `detectron2.engine.hooks`."""

import datetime
import logging
import math
import operator
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer

from ..evaluation.testing import flatten_results_dict
from ..solver import LRMultiplier
from ..solver import LRScheduler as _LRScheduler
from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase, TrainerBase

logger = logging.getLogger("detectron2.engine.hooks")


class CallbackHook(HookBase):
    """A hook made of functions (`before_train`, `after_train`, `before_step`, `after_step`) of the trainer."""

    def __init__(self, **functions: Callable[[TrainerBase], None] | None) -> None:
        for when, function in functions.items():
            if when not in ("before_train", "after_train", "before_step", "after_step"):
                raise TypeError(f"CallbackHook has no '{when}'.")
            if function is not None:
                setattr(self, when, lambda function=function: function(self.trainer))


class IterationTimer(HookBase):
    """Store each iteration's seconds as "time" and log the speed in the end. Should be the first hook."""

    def __init__(self, warmup_iter: int = 3) -> None:
        """The first `warmup_iter` iterations are not counted: they are slower than the rest."""
        self._warmup_iter = warmup_iter
        self._step_timer = Timer()
        self._total_timer = Timer()
        self._start_time = time.perf_counter()

    def before_train(self) -> None:
        self._start_time = time.perf_counter()
        self._total_timer.reset()
        self._total_timer.pause()

    def before_step(self) -> None:
        self._step_timer.reset()
        self._total_timer.resume()

    def after_step(self) -> None:
        storage = self.trainer.storage
        if storage.iter - self.trainer.start_iter + 1 >= self._warmup_iter:
            storage.put_scalars(time=self._step_timer.seconds())
        else:
            self._start_time = time.perf_counter()
            self._total_timer.reset()
        self._total_timer.pause()

    def after_train(self) -> None:
        total, steps = time.perf_counter() - self._start_time, self._total_timer.seconds()
        count = self.trainer.storage.iter + 1 - self.trainer.start_iter - self._warmup_iter
        if count > 0 and steps > 0:
            logger.info("Overall training speed: %d iterations in %s (%.4f s / it)", count, _hms(steps), steps / count)
        logger.info("Total training time: %s (%s on hooks)", _hms(total), _hms(total - steps))


def _hms(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Let writers write every `period` iterations, after the last one, and once more before they close."""

    def __init__(self, writers: list[EventWriter], period: int = 20) -> None:
        self._writers = writers
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's `PeriodicCheckpointer`, stepped after each iteration."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Store the learning rate as "lr" and step the scheduler, after each iteration."""

    def __init__(
        self, optimizer: torch.optim.Optimizer | None = None, scheduler: _LRScheduler | ParamScheduler | None = None
    ) -> None:
        """
        Args:
            optimizer: by default the trainer's.
            scheduler: a torch scheduler, or a multiplier on the learning rates as a `ParamScheduler`; by
                default the trainer's.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> _LRScheduler | ParamScheduler:
        return self._scheduler or self.trainer.scheduler  # type: ignore[attr-defined]  # of trainers that have one

    def before_train(self) -> None:
        optimizer = self._optimizer or self.trainer.optimizer  # type: ignore[attr-defined]  # of trainers that have one
        self._optimizer = optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                optimizer, self.scheduler, self.trainer.max_iter, last_iter=self.trainer.iter - 1
            )
        self._best_param_group_id = self.get_best_param_group_id(optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """The group whose learning rate stands for all: the largest, or among groups of one the commonest rate."""
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates.index(Counter(rates).most_common()[0][0])

    def after_step(self) -> None:
        assert self._optimizer is not None  # since before_train
        rate = self._optimizer.param_groups[self._best_param_group_id]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict() if isinstance(self.scheduler, _LRScheduler) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if isinstance(self.scheduler, _LRScheduler):
            logger.info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)


class EvalHook(HookBase):
    """Evaluate every `eval_period` iterations (0: never) and at the end, and store the numbers."""

    def __init__(
        self, eval_period: int, eval_function: Callable[[], dict | None], eval_after_train: bool = True
    ) -> None:
        """
        Args:
            eval_function: returns a nested dict of numbers, stored as "outer/inner", or nothing. It is
                called on all ranks.
        """
        self._period = eval_period
        self._func = eval_function
        self._eval_after_train = eval_after_train

    def _do_eval(self) -> None:
        results = self._func()
        if results:
            numbers = {name: float(value) for name, value in flatten_results_dict(results).items()}
            for name, number in numbers.items():
                self.trainer.storage.put_scalar(name, number, smoothing_hint=False)
        comm.synchronize()  # ranks that had less to evaluate wait here, not inside the next iteration

    def after_step(self) -> None:
        if _is_period_end(self.trainer, self._period):
            self._do_eval()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # likely a closure over the trainer


def _is_period_end(trainer: Any, period: int) -> bool:
    """Whether a period ends with this iteration; the end of training is left to `after_train`."""
    done = trainer.iter + 1
    return period > 0 and done % period == 0 and done != trainer.max_iter


class BestCheckpointer(HookBase):
    """Keep the checkpoint with the best value of a metric. Belongs after the `EvalHook` that makes it."""

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """
        Args:
            eval_period: that of the `EvalHook`.
            val_metric: such as "bbox/AP".
            mode: whether the best is the "max" or the "min".
        """
        if mode not in ("max", "min"):
            raise AssertionError(f"mode must be 'max' or 'min', not {mode!r}.")
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def _check(self) -> None:
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning("There is no metric '%s', so no best checkpoint is kept.", self._val_metric)
            return
        metric, iteration = latest
        best = self.best_metric
        if not math.isfinite(metric) or not (best is None or self._better(metric, best)):
            logger.info("%s is %.5f: not better than %s @ iteration %s.",
                        self._val_metric, metric, best, self.best_iter)  # fmt: skip
            return
        self.best_metric, self.best_iter = metric, iteration
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info("Saved best model: %s is %.5f @ iteration %d.", self._val_metric, metric, iteration)

    def after_step(self) -> None:
        if _is_period_end(self.trainer, self._period):
            self._check()

    def after_train(self) -> None:
        if self.trainer.iter + 1 >= self.trainer.max_iter:
            self._check()
