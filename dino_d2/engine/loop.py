# SPDX-License-Identifier: Apache-2.0
"""The training loop, including its end after errors and signals."""

import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dino_d2.data.check import DatasetError
from dino_d2.detectron2.engine import HookBase, SimpleTrainer, hooks
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.errors import UserError

from . import ranks
from .output_folder import in_words

logger = logging.getLogger(__name__)


class NonFiniteLossError(FloatingPointError):
    """A loss or a gradient became infinite or NaN; the message names images and losses."""


#: Errors with a complete message; they are logged without a traceback.
EXPLAINED = (UserError, DatasetError, NonFiniteLossError)


class TrainingLoop(SimpleTrainer):
    """Detectron2's training loop with a stricter end.

    ``after_train`` is called only for hooks whose ``before_train`` has returned. If several hooks fail, the first error
    is raised and the others are logged. A training without remaining iterations runs its hooks as after the last
    iteration.

    Attributes:
        fetching_since: when the loop began to wait for a batch, by ``time.monotonic``; None while it does not wait.
            While it waits, nothing of the current iteration is computed yet.
        output_dir: the folder that hooks write to; None if not known.
    """

    fetching_since: float | None = None
    output_dir: Path | None = None

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run the iterations ``start_iter`` to ``max_iter - 1``.

        A hook ends the training early, as completely as after its last iteration, by setting ``max_iter`` of the
        trainer to ``iter + 1``.

        Raises:
            UserError: in place of an error that the data loader can explain, such as the death of a worker, and in
                place of an error of a full disk, a vanished output folder or a rank that has died.
        """
        logger.info("Starting training from iteration %d", start_iter)
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self._started: list[HookBase] = []
        with EventStorage(start_iter) as self.storage:
            try:
                self.before_train()
                while self.iter < self.max_iter:  # a hook may lower max_iter to end the training early
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1  # equal to max_iter at the end: hooks see by this that the training is complete
            except EXPLAINED:
                raise
            except Exception as error:
                if explained := self._explain(error):
                    raise explained from error
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()

    def before_train(self) -> None:
        for hook in self._hooks:
            hook.before_train()
            self._started.append(hook)

    def after_train(self) -> None:
        self.storage.iter = self.iter
        propagating = sys.exc_info()[1]
        first = propagating
        for hook in self._started:
            error = _finish(hook)
            if first is None:
                first = error
            elif error is not None:
                logger.error("%s failed as well: %s: %s", type(hook).__name__, type(error).__name__, error)
        if first is not None and first is not propagating:
            raise first

    def state_dict(self) -> dict[str, Any]:
        """As Detectron2's method, which saves only the first hook of each class."""
        states = {name: state for name, hook in self._hooks_by_name().items() if (state := hook.state_dict())}
        return super().state_dict() | ({"hooks": states} if states else {})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        hooks_by_name, states = self._hooks_by_name(), state_dict.get("hooks", {})
        further = {name: state for name, state in states.items() if "#" in name and name in hooks_by_name}
        first = {name: state for name, state in states.items() if name not in further}
        super().load_state_dict({**state_dict, "hooks": first})
        for name, state in further.items():
            hook: Any = hooks_by_name[name]
            hook.load_state_dict(state)

    def _hooks_by_name(self) -> dict[str, HookBase]:
        """{"Class": the first hook of a class, "Class#2": the second one, ...}, in the order of registration."""
        numbers: Counter[str] = Counter()
        found = {}
        for hook in self._hooks:
            name = type(hook).__qualname__
            numbers[name] += 1
            found[name if numbers[name] == 1 else f"{name}#{numbers[name]}"] = hook
        return found

    def next_batch(self) -> list[dict]:
        """The next batch of the data loader."""
        ranks.note(f"while loading images for iteration {self.iter}")
        with self._fetches():
            return next(self._data_loader_iter)

    @contextlib.contextmanager
    def _fetches(self) -> Iterator[None]:
        self.fetching_since = time.monotonic()
        try:
            yield
        finally:
            self.fetching_since = None

    def _explain(self, error: Exception) -> Exception | None:
        explain: Any = getattr(self.data_loader, "explain", None)
        explained = explain(error) if explain else None
        explained = explained or (in_words(error, self.output_dir) if self.output_dir else None)
        return explained or ranks.death_behind(error)


def _finish(hook: HookBase) -> BaseException | None:
    """Call ``after_train``; returns the error, so that the other hooks are finished too, as by closing their files."""
    try:
        hook.after_train()
    except BaseException as error:  # including a signal during the last evaluation
        return error
    return None


class EvalHook(hooks.EvalHook):
    """Detectron2's hook, which evaluates at the end only if the training is complete, and then only once.

    Detectron2's own also evaluates after an error, or a signal, in the last iteration.

    Attributes:
        evaluated_after: the last iteration before the latest evaluation; None if there was none.
    """

    evaluated_after: int | None = None

    def is_due(self, iteration: int) -> bool:
        """Whether an evaluation belongs after this iteration of a training that goes on."""
        return self._period > 0 and (iteration + 1) % self._period == 0

    def evaluate(self) -> None:
        """Evaluate now and store the results; all ranks call this together."""
        self._do_eval()
        self.evaluated_after = min(self.trainer.iter, self.trainer.max_iter - 1)

    def after_step(self) -> None:
        if self.is_due(self.trainer.iter) and self.trainer.iter + 1 != self.trainer.max_iter:
            self.evaluate()

    def after_train(self) -> None:
        if self.trainer.iter == self.trainer.max_iter and self.evaluated_after != self.trainer.iter - 1:
            self.evaluate()
