# SPDX-License-Identifier: Apache-2.0
"""The training step: mixed precision, gradient accumulation, gradient clipping and averaged weights (EMA)."""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from . import ranks
from .collective import any_rank
from .loop import NonFiniteLossError, TrainingLoop
from .random_state import preserved_random_state
from .sharding import gradients_stay_undivided, own_part, undivided

logger = logging.getLogger(__name__)


class Trainer(TrainingLoop):
    """Detectron2's trainer with the training step of DETR-like detectors.

    Args:
        model: returns a dict of losses; may be wrapped in ``DistributedDataParallel``.
        data_loader: iterable of batches, each a list of dicts with an "image_id". If it has a ``state_dict``, as the
            loader of ``dino_d2.data.loader`` has, a resumed run continues with the next batch.
        optimizer: optimizer of the model's parameters.
        clip_grad_norm: maximum L2 norm of all gradients together (Table 8: 0.1).
        accumulate: number of batches whose gradients are averaged before an optimizer step. A :class:`KnowsItsStep`
            model normalises its losses as if all these images were one batch.
        precision: dtype of autocast around the model; None computes in float32. Losses are always float32.
        ema: exponential moving average of the weights, updated after every step; None: no average.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[list[dict]],
        optimizer: torch.optim.Optimizer,
        clip_grad_norm: float = 0.1,
        accumulate: int = 1,
        precision: torch.dtype | None = None,
        ema: AveragedModel | None = None,
    ):
        super().__init__(model, data_loader, optimizer)
        self.clip_grad_norm = clip_grad_norm
        self.accumulate = accumulate
        self.precision = precision
        self.ema = ema
        self.first_batch: list[dict] = []  # of this start, while its first step lasts; for a picture of it
        # Only float16 has too narrow a range for unscaled gradients.
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=precision == torch.float16)

    def run_step(self) -> None:
        """Forward and backward passes of all batches of the step, then one optimizer step.

        ``after_backward`` hooks run once per step, after the gradients of all batches are accumulated and before they
        are clipped. With float16 the gradients are still scaled at that point, as in Detectron2's ``AMPTrainer``.

        Raises:
            NonFiniteLossError: a loss or the gradient norm is not finite; on all ranks, before the weights change.
        """
        self.optimizer.zero_grad()
        start = time.perf_counter()
        batches = [self.next_batch() for _ in range(self.accumulate)]
        data_time = time.perf_counter() - start
        self.first_batch = batches[0] if self.iter == self.start_iter else []
        sums: dict[str, Tensor] = {}
        parts = parts_of_step(self.model, batches)
        if self.accumulate > 1 and self.iter == self.start_iter:
            self.record_static_graph(batches[0], parts[0])
        for i, (batch, part) in enumerate(zip(batches, parts, strict=True)):
            with gradients_stay_local(self.model) if i < self.accumulate - 1 else nullcontext():
                losses = self.forward(batch, *part)
                self.backward(losses)
            losses = to_host(losses)
            check_finite(losses, batch, self.iter)
            sums = {name: sums.get(name, 0.0) + value / self.accumulate for name, value in losses.items()}
        self.after_backward()
        norm = self.update_weights()
        self._write_metrics(sums, data_time)
        self.storage.put_scalar("grad_norm", norm, smoothing_hint=False)

    def record_static_graph(self, batch: list[dict], part: tuple) -> None:
        """Run one backward pass for ``DistributedDataParallel(static_graph=True)`` and discard its gradients.

        DistributedDataParallel records the graph in its first backward pass, which must not run under ``no_sync``.
        """
        if isinstance(self.model, nn.parallel.DistributedDataParallel) and self.model.static_graph:
            with preserved_random_state():
                self.backward(self.forward(batch, *part))
            self.optimizer.zero_grad()

    def forward(self, batch: list[dict], *part: Any) -> dict[str, Tensor]:
        """Losses of one batch, under autocast if a precision is set; ``part`` comes from :func:`parts_of_step`."""
        ranks.note_images("training on", batch)
        device_type = next(self.model.parameters()).device.type
        with torch.autocast(device_type, dtype=self.precision, enabled=self.precision is not None):
            return self.model(batch, *part)

    def backward(self, losses: dict[str, Tensor]) -> None:
        """Add the gradients of the sum of the losses, divided by ``accumulate``."""
        total = cast("Tensor", sum(losses.values()))
        self.grad_scaler.scale(total / self.accumulate).backward()

    def update_weights(self) -> float:
        """Clip the gradients, step the optimizer and update the average; returns the gradient norm before clipping."""
        self.grad_scaler.unscale_(self.optimizer)
        norm = undivided(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)).item()
        # The norm is equal on all ranks. A gradient scaler skips such steps itself.
        if not math.isfinite(norm) and not self.grad_scaler.is_enabled():
            raise NonFiniteLossError(
                f"training stopped at iteration {self.iter}, before the weights changed: the gradient norm is {norm} "
                "although all losses are finite. Lower the learning rate, or disable train.amp."
            )
        check_weights(self.model, self.iter)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(unwrap(self.model))
        return norm

    def state_dict(self) -> dict:
        """State after the current iteration, except model weights and RNG state, which the checkpointer saves."""
        own = {name: part.state_dict() for name, part in self._stateful_parts().items()}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state; parts that are missing from it, as from another trainer's state, are logged as warnings."""
        super().load_state_dict(state_dict)
        for name, part in self._stateful_parts().items():
            if state_dict.get(name):
                part.load_state_dict(state_dict[name])
            else:
                logger.warning("The checkpoint has no state for '%s'; it starts from scratch.", name)

    def _stateful_parts(self) -> dict:
        parts: dict = {}
        if self.grad_scaler.is_enabled():
            parts["grad_scaler"] = self.grad_scaler
        if self.ema is not None:
            # A checkpoint's "model" is the average, which is evaluated; training continues from these weights.
            parts["trained_weights"] = unwrap(self.model)
        if hasattr(self.data_loader, "state_dict"):
            parts["data_loader"] = self.data_loader
        return parts


@runtime_checkable
class KnowsItsStep(Protocol):
    """A model whose losses depend on all batches of a step, for example through the total number of objects."""

    def parts_of_step(self, batches: list[list[dict]]) -> list[Any]:
        """The second argument of the model for each batch."""


def parts_of_step(model: nn.Module, batches: list[list[dict]]) -> list[tuple]:
    """Additional arguments of the model for each batch; empty for a single batch or a model without such arguments."""
    model = unwrap(model)
    if len(batches) == 1 or not isinstance(model, KnowsItsStep):
        return [()] * len(batches)
    return [(part,) for part in model.parts_of_step(batches)]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside ``DistributedDataParallel``, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def gradients_stay_local(model: nn.Module) -> AbstractContextManager:
    """Context for all batches of a step except the last: gradients are not synchronised between ranks."""
    if isinstance(model, FSDPModule):
        return gradients_stay_undivided(model)
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Exponential moving average of weights and buffers: average = decay · average + (1 - decay) · weights.

    If both models are divided among ranks (``sharding.py``), each rank averages its own part.
    """
    average = get_ema_multi_avg_fn(decay)

    def average_own_parts(averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
        average([own_part(one) for one in averages], [own_part(weight) for weight in weights], count)

    ema = AveragedModel(model, multi_avg_fn=average_own_parts, use_buffers=True)
    ema.n_averaged.fill_(1)  # with 0, PyTorch would replace the average by the weights after the first step
    return ema


def to_host(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy all losses to the host with one device synchronisation."""
    values = torch.stack([value.detach().float() for value in losses.values()]).cpu()
    return dict(zip(losses, values.unbind(), strict=True))


def check_weights(model: nn.Module, iteration: int) -> None:
    """Raise :class:`NonFiniteLossError` if a weight is not finite. All ranks have equal weights, so all raise.

    Losses do not always reveal this: oneDNN's ReLU maps NaN to 0, so a NaN in the first bias of a feed-forward network
    leaves losses and gradients finite.
    """
    if undivided(nn.utils.get_total_norm(model.parameters())).isfinite():
        return
    bad = [name for name, weight in model.named_parameters() if not undivided(weight).isfinite().all()]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NonFiniteLossError(
            f"training stopped at iteration {iteration}: {', '.join(bad[:3])}{more} have non-finite values although "
            "all losses are finite. Resume from an earlier checkpoint with a lower learning rate, or set "
            "train.init_checkpoint to other weights"
        )


def check_finite(losses: dict[str, Tensor], batch: list[dict], iteration: int) -> None:
    """Raise :class:`NonFiniteLossError` on all ranks if a loss of any rank is not finite."""
    bad = [name for name, value in losses.items() if not value.isfinite()]
    report = f"image ids {[x['image_id'] for x in batch]} have non-finite losses: {', '.join(bad)}" if bad else None
    reports: list[str | None] = [report]
    # Every step exchanges one number; the reports are gathered only after a failure.
    if any_rank(bool(bad)) and dist.is_initialized():
        reports = [None] * dist.get_world_size()
        dist.all_gather_object(reports, report)
    of_ranks = [f"rank {rank}: {text}" for rank, text in enumerate(reports) if text]
    if of_ranks:
        raise NonFiniteLossError(
            f"training stopped at iteration {iteration}, before the weights changed: {'; '.join(of_ranks)}.\n"
            "Check these images and their boxes, lower the learning rate, or disable train.amp."
        )
