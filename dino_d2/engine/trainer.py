# SPDX-License-Identifier: Apache-2.0
"""One training step: mixed precision, gradient accumulation and clipping, a running mean of the weights."""

import logging
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .collective import any_rank
from .loop import NonFiniteLossError, TrainingLoop
from .random_state import preserved_random_state
from .sharding import gradients_stay_undivided, own_part, undivided

logger = logging.getLogger(__name__)


class Trainer(TrainingLoop):
    """Detectron2's trainer with what DETR-like detectors need in a step.

    Args:
        model: gives a dict of losses; may be wrapped for distributed training.
        data_loader: iterable of batches, each a list of dicts with an "image_id". If it has a state, as that of
            ``dino_d2.data.loader`` has, a resumed training goes on with the batch that would have come next.
        optimizer: of the model's parameters.
        clip_grad_norm: largest L2 norm of all gradients together (Table 8: 0.1).
        accumulate: batches whose gradients are averaged before a step. A model that :class:`KnowsItsStep` divides its
            losses as for one batch of all their images.
        precision: dtype of autocast around the model; None computes in float32. Losses are float32 in any case.
        ema: running mean of the weights, updated after every step; None keeps none.
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
        # Only float16 has too narrow a range for unscaled gradients.
        self.grad_scaler = torch.amp.GradScaler("cuda", enabled=precision == torch.float16)

    def run_step(self) -> None:
        """Forward, backward, step.

        ``after_backward`` hooks run once a step, when the gradients of all its batches are there and before they are
        clipped; with float16, gradients still have the factor of the scaler, as in Detectron2's ``AMPTrainer``.

        Raises:
            NonFiniteLossError: on every rank, before the weights are touched; for gradients too.
        """
        self.optimizer.zero_grad()
        start = time.perf_counter()
        batches = [self.next_batch() for _ in range(self.accumulate)]
        data_time = time.perf_counter() - start
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
        """Let ``DistributedDataParallel(static_graph=True)`` see one backward pass, and drop its gradients.

        It records its graph in the first backward pass, which fails where that pass keeps its gradients local.
        """
        if isinstance(self.model, nn.parallel.DistributedDataParallel) and self.model.static_graph:
            with preserved_random_state():
                self.backward(self.forward(batch, *part))
            self.optimizer.zero_grad()

    def forward(self, batch: list[dict], *part: Any) -> dict[str, Tensor]:
        """Losses of a batch, or of a part of a step, under autocast where a precision is set."""
        device_type = next(self.model.parameters()).device.type
        with torch.autocast(device_type, dtype=self.precision, enabled=self.precision is not None):
            return self.model(batch, *part)

    def backward(self, losses: dict[str, Tensor]) -> None:
        """Add the gradients of the losses' sum."""
        total = cast("Tensor", sum(losses.values()))
        self.grad_scaler.scale(total / self.accumulate).backward()

    def update_weights(self) -> float:
        """Clip, step, follow with the running mean; returns the gradients' norm before clipping."""
        self.grad_scaler.unscale_(self.optimizer)
        norm = undivided(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)).item()
        # The same on all ranks. With a scaler such steps are ordinary: it leaves them out.
        if not math.isfinite(norm) and not self.grad_scaler.is_enabled():
            raise NonFiniteLossError(
                f"training stopped at iteration {self.iter}, before the weights were changed: the gradients' norm is "
                f"{norm}, though every loss is finite. Lower the learning rate, or switch train.amp off."
            )
        check_weights(self.model, self.iter)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(unwrap(self.model))
        return norm

    def state_dict(self) -> dict:
        """The state after the current iteration, but for the model and the random generators."""
        own = {name: part.state_dict() for name, part in self._stateful_parts().items()}
        return super().state_dict() | own

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state; a warning names what it lacks, as that of another trainer may."""
        super().load_state_dict(state_dict)
        for name, part in self._stateful_parts().items():
            if state_dict.get(name):
                part.load_state_dict(state_dict[name])
            else:
                logger.warning("The checkpoint has no state of '%s', which starts anew.", name)

    def _stateful_parts(self) -> dict:
        parts: dict = {}
        if self.grad_scaler.is_enabled():
            parts["grad_scaler"] = self.grad_scaler
        if self.ema is not None:
            # A checkpoint's "model" is the mean, which is what was evaluated; these are the weights it is the mean of.
            parts["trained_weights"] = unwrap(self.model)
        if hasattr(self.data_loader, "state_dict"):
            parts["data_loader"] = self.data_loader
        return parts


@runtime_checkable
class KnowsItsStep(Protocol):
    """A model whose losses of a batch may depend on the other batches of the step, as on their number of objects."""

    def parts_of_step(self, batches: list[list[dict]]) -> list[Any]:
        """For each batch, what the model takes as its second argument."""


def parts_of_step(model: nn.Module, batches: list[list[dict]]) -> list[tuple]:
    """What the model takes after each batch: nothing where a step has one batch, or the model does not ask for it."""
    model = unwrap(model)
    if len(batches) == 1 or not isinstance(model, KnowsItsStep):
        return [()] * len(batches)
    return [(part,) for part in model.parts_of_step(batches)]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside ``DistributedDataParallel``, or the model itself."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def gradients_stay_local(model: nn.Module) -> AbstractContextManager:
    """Batches of a step but the last: ranks share the sum of their gradients once, with the last one."""
    if isinstance(model, FSDPModule):
        return gradients_stay_undivided(model)
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else nullcontext()


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Running mean of weights and buffers, from those of now: mean = decay · mean + (1 - decay) · weights.

    Where both models are divided among ranks (``sharding.py``), each rank averages its own part.
    """
    average = get_ema_multi_avg_fn(decay)

    def average_own_parts(means: list[Tensor], weights: list[Tensor], count: Tensor | int) -> None:
        average([own_part(mean) for mean in means], [own_part(weight) for weight in weights], count)

    ema = AveragedModel(model, multi_avg_fn=average_own_parts, use_buffers=True)
    ema.n_averaged.fill_(1)  # the mean of one: with 0, PyTorch would begin with the weights after the first step
    return ema


def to_host(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy all losses with one wait for the device."""
    values = torch.stack([value.detach().float() for value in losses.values()]).cpu()
    return dict(zip(losses, values.unbind(), strict=True))


def check_weights(model: nn.Module, iteration: int) -> None:
    """Raise :class:`NonFiniteLossError` if a weight is not finite; the same on all ranks, which share their weights.

    The losses do not always show it: oneDNN's ReLU makes 0 of NaN, so that a feed-forward network hides a NaN of its
    first bias behind finite losses and gradients.
    """
    if undivided(nn.utils.get_total_norm(model.parameters())).isfinite():
        return
    bad = [name for name, weight in model.named_parameters() if not undivided(weight).isfinite().all()]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NonFiniteLossError(
            f"training stopped at iteration {iteration}: there are non-finite weights in {', '.join(bad[:3])}{more}, "
            "though every loss is finite. Go on from an earlier checkpoint with a lower learning rate, or give other "
            "weights as train.init_checkpoint"
        )


def check_finite(losses: dict[str, Tensor], batch: list[dict], iteration: int) -> None:
    """Raise :class:`NonFiniteLossError` on all ranks if any rank has a loss that is not finite."""
    bad = [name for name, value in losses.items() if not value.isfinite()]
    report = f"image ids {[x['image_id'] for x in batch]} have the non-finite losses {', '.join(bad)}" if bad else None
    reports: list[str | None] = [report]
    # One number a step; the words travel only when there is something to say.
    if any_rank(bool(bad)) and dist.is_initialized():
        reports = [None] * dist.get_world_size()
        dist.all_gather_object(reports, report)
    of_ranks = [f"rank {rank}: {text}" for rank, text in enumerate(reports) if text]
    if of_ranks:
        raise NonFiniteLossError(
            f"training stopped at iteration {iteration}, before the weights were changed: {'; '.join(of_ranks)}.\n"
            "Look at these images and their boxes, lower the learning rate, or switch train.amp off."
        )
