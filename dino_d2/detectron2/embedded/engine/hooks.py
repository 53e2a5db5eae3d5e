# SPDX-License-Identifier: Apache-2.0
"""Hooks of the training loop, as in `detectron2.engine.hooks`."""

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from fvcore.common.timer import Timer

from ..evaluation.testing import flatten_results_dict
from ..solver import LRMultiplier
from ..solver import LRScheduler as _LRScheduler
from ..utils import comm
from ..utils.events import EventWriter
from .train_loop import HookBase

logger = logging.getLogger("detectron2.engine.hooks")


class IterationTimer(HookBase):
    """Stores the seconds of each iteration as "time" and logs the speed at the end. Should be the first hook."""

    def __init__(self, warmup_iter: int = 3) -> None:
        """
        Args:
            warmup_iter: number of slower iterations at the start that are excluded from the timing.
        """
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
    """Calls the writers every `period` iterations, after the last iteration, and before they are closed."""

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
    """fvcore's `PeriodicCheckpointer` as a hook that runs after each iteration."""

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


class LRScheduler(HookBase):
    """Stores the learning rate as "lr" and steps the scheduler, after each iteration."""

    def __init__(
        self, optimizer: torch.optim.Optimizer | None = None, scheduler: _LRScheduler | ParamScheduler | None = None
    ) -> None:
        """
        Args:
            optimizer: by default the trainer's.
            scheduler: a torch scheduler, or a `ParamScheduler` whose values multiply the learning rates; by default
                the trainer's.
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
        """The index of the parameter group whose learning rate is stored.

        This is the largest group. If every group has one parameter, it is the first one with the most common rate.
        """
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
    """Evaluates every `eval_period` iterations (0: never) and at the end, and stores the results."""

    def __init__(
        self, eval_period: int, eval_function: Callable[[], dict | None], eval_after_train: bool = True
    ) -> None:
        """
        Args:
            eval_function: called on all ranks; returns None or a nested dict of numbers, which are stored under
                "outer/inner".
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
        comm.synchronize()  # ranks that finish early wait here instead of in the next timed iteration

    def after_step(self) -> None:
        if _is_period_end(self.trainer, self._period):
            self._do_eval()

    def after_train(self) -> None:
        if self._eval_after_train and self.trainer.iter + 1 >= self.trainer.max_iter:
            self._do_eval()
        del self._func  # often a closure that refers to the trainer


def _is_period_end(trainer: Any, period: int) -> bool:
    """Whether this iteration completes a period; `after_train` handles the last iteration of training."""
    done = trainer.iter + 1
    return period > 0 and done % period == 0 and done != trainer.max_iter
