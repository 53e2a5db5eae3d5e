# SPDX-License-Identifier: Apache-2.0
"""The training loop, as in `detectron2.engine.train_loop`."""

import logging
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..utils import comm
from ..utils.events import EventStorage, get_event_storage

logger = logging.getLogger("detectron2.engine.train_loop")


class HookBase:
    """Base class of hooks, which the training loop calls at fixed points with `self.trainer` set."""

    trainer: "TrainerBase" = None  # type: ignore[assignment]  # until register_hooks

    def before_train(self) -> None:
        """Before the first iteration."""

    def after_train(self) -> None:
        """After the last iteration, and after an error."""

    def before_step(self) -> None:
        """Before each iteration. This should be fast, since it is included in the measured time of the iteration."""

    def after_backward(self) -> None:
        """After the backward pass, before the optimiser's step."""

    def after_step(self) -> None:
        """After each iteration."""

    def state_dict(self) -> dict[str, Any]:
        """State of the hook for checkpoints; a hook with a state also defines `load_state_dict`."""
        return {}


class TrainerBase:
    """A loop with hooks; `run_step` is one iteration.

    Attributes:
        iter: the current iteration; after training, the number of iterations.
        start_iter, max_iter: training runs over the iterations `start_iter .. max_iter - 1`.
        storage: the `EventStorage` of the running training.
    """

    def __init__(self) -> None:
        self._hooks: list[HookBase] = []
        self.iter = 0
        self.start_iter = 0
        self.max_iter: int
        self.storage: EventStorage

    def register_hooks(self, hooks: list[HookBase | None]) -> None:
        """Add hooks, which are called in this order; None entries are skipped."""
        for hook in hooks:
            if hook is not None:
                hook.trainer = weakref.proxy(self)  # avoids a reference cycle
                self._hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                for self.iter in range(start_iter, max_iter):
                    self.before_step()
                    self.run_step()
                    self.after_step()
                self.iter += 1  # shows hooks that training was completed
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()

    def after_train(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.after_train()

    def before_step(self) -> None:
        self.storage.iter = self.iter
        for hook in self._hooks:
            hook.before_step()

    def after_backward(self) -> None:
        for hook in self._hooks:
            hook.after_backward()

    def after_step(self) -> None:
        for hook in self._hooks:
            hook.after_step()

    def run_step(self) -> None:
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"iteration": self.iter}
        hooks: dict[str, Any] = {}
        for hook in self._hooks:
            hook_state = hook.state_dict()
            if hook_state:
                hooks.setdefault(type(hook).__qualname__, hook_state)
        return state | ({"hooks": hooks} if hooks else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.iter = state_dict["iteration"]
        for name, hook_state in state_dict.get("hooks", {}).items():
            hook = next((h for h in self._hooks if type(h).__qualname__ == name), None)
            if hook is None:
                logger.warning(
                    "The checkpoint has the state of hook '%s', which is not registered; it is ignored.", name
                )
            else:
                hook.load_state_dict(hook_state)  # type: ignore[attr-defined]  # a hook with a state has it


class SimpleTrainer(TrainerBase):
    """Trains one model, which returns a dict of losses, with one optimiser and one data loader.

    Each iteration takes a batch, backpropagates the sum of its losses and steps the optimiser.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """
        Args:
            gather_metric_period: iterations between averaging the losses over the ranks and storing them.
            zero_grad_before_forward: clear gradients before the forward pass instead of after it.
            async_write_metrics: store losses in another thread, so that training does not wait for the GPU. Errors
                there are logged and do not stop the training.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self.concurrent_executor = ThreadPoolExecutor(max_workers=1)  # one thread: iterations are stored in order
        self._data_loader_iter_obj: Iterator[Any] | None = None

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        # created on first use, so that worker processes start with the training
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def run_step(self) -> None:
        if not self.model.training:
            raise AssertionError("The model was switched to eval mode during training.")
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        loss_dict = self.model(data)
        if isinstance(loss_dict, Tensor):
            loss_dict = {"total_loss": loss_dict}
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        sum(loss_dict.values()).backward()
        self.after_backward()
        if self.async_write_metrics:
            self.concurrent_executor.submit(self._write_metrics, loss_dict, data_time, iter=self.iter)
        else:
            self._write_metrics(loss_dict, data_time)
        self.optimizer.step()

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable]) -> None:
        """Delete the data loader and replace it by the result of `data_loader_builder`."""
        del self.data_loader
        self.data_loader = data_loader_builder()
        self._data_loader_iter_obj = None

    def after_train(self) -> None:
        super().after_train()
        self.concurrent_executor.shutdown(wait=True)

    def _write_metrics(
        self, loss_dict: Mapping[str, Tensor], data_time: float, prefix: str = "", iter: int | None = None
    ) -> None:
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period == 0:
            try:
                self.write_metrics(loss_dict, data_time, iteration, prefix)
            except Exception:
                logger.exception("Exception in writing metrics: ")  # in another thread, where no caller catches it
                raise

    @staticmethod
    def write_metrics(loss_dict: Mapping[str, Tensor], data_time: float, cur_iter: int, prefix: str = "") -> None:
        """Store the losses averaged over the ranks, their sum, and the longest data time.

        Raises:
            FloatingPointError: the sum is infinite or NaN; raised on rank 0.
        """
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=cur_iter)
        metrics = {name: loss.detach().cpu().item() for name, loss in loss_dict.items()}
        gathered = comm.gather({**metrics, "data_time": data_time})
        if not comm.is_main_process():
            return
        storage.put_scalar("data_time", max(rank.pop("data_time") for rank in gathered), cur_iter=cur_iter)
        averages = {name: np.mean([rank[name] for rank in gathered]) for name in gathered[0]}
        total = sum(averages.values())
        if not np.isfinite(total):
            raise FloatingPointError(f"The loss is infinite or NaN at iteration {cur_iter}: {averages}")
        storage.put_scalar(f"{prefix}total_loss", total, cur_iter=cur_iter)
        if len(averages) > 1:
            storage.put_scalars(cur_iter=cur_iter, **averages)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])
