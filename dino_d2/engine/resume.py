# SPDX-License-Identifier: Apache-2.0
"""Decides whether a run can continue from a checkpoint, before anything of it is loaded.

PyTorch loads an optimizer's state without comparing shapes, and a fused kernel would then write beyond the end of
tensors of other sizes.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from dino_d2.checkpoint.files import read_torch
from dino_d2.checkpoint.torch_file import check_sums
from dino_d2.errors import UserError

from .checkpointer import BEST, last_checkpoint
from .ending import check_iterations
from .resume_state import loader_faults, optimizer_faults, random_state_faults, scaler_faults
from .score_history import score_faults
from .trainer import Trainer, unwrap
from .training_data import TrainingData

logger = logging.getLogger("dino_d2")


def can_resume(cfg: DictConfig, resume: bool) -> bool:
    """Whether to continue from a checkpoint: it was asked for, and the output folder has one."""
    return resume and last_checkpoint(Path(cfg.train.output_dir)) is not None


def check_resume(
    path: str,
    model: nn.Module,
    trainer: Trainer,
    max_iter: int,
    categories: list[dict] | None = None,
    data: TrainingData | None = None,
) -> None:
    """Compare a checkpoint with the run that is to continue from it; warnings say what has changed since.

    Args:
        path: checkpoint of an :class:`~dino_d2.engine.checkpointer.AtomicCheckpointer` with a trainer.
        model: of the config; the running mean of the weights where there is one.
        trainer: of the config, before anything is loaded.
        max_iter: iterations of the run in all.
        categories: [{"id", "name"}] of the config's classes, in the order of the model's; None if not known.
        data: record of the config's datasets; None if not known.

    Raises:
        UserError: the file is damaged or is no checkpoint of a training, more iterations are done than ``max_iter``,
            the model has other tensors, or the optimizer is of another kind or groups its parameters differently.
    """
    try:
        check_sums(path)
        saved = read_torch(path)
    except (ValueError, OSError) as error:
        raise UserError(f"--resume: {error}{_others(path)}") from error
    optimizer = trainer.optimizer
    try:
        tensors, state = saved["model"], saved["trainer"]
        groups, states = state["optimizer"]["param_groups"], state["optimizer"]["state"]
    except (TypeError, KeyError) as error:
        raise UserError(
            f"--resume: {path} holds no state of a training. Name a checkpoint of this run in last_checkpoint, or "
            f"begin a new run from it without --resume: train.init_checkpoint={path} train.output_dir=FOLDER"
        ) from error
    _refuse_damaged(path, _structure_faults(saved))
    iteration = state["iteration"]
    check_iterations(path, iteration + 1, max_iter)
    found = list(differences(tensors, model.state_dict())) or list(group_differences(groups, states, optimizer))
    if not found and trainer.ema is not None and state.get("trained_weights"):
        found = list(differences(state["trained_weights"], unwrap(trainer.model).state_dict()))
    kinds, damages = optimizer_faults(groups, states, optimizer, iteration) if not found else ([], [])
    found += kinds
    if found:
        more = f" ({len(found) - 1} more differ)" if len(found) > 1 else ""
        raise UserError(
            f"--resume: {path} does not belong to this config: {found[0]}{more}. Go on with the config of the run, "
            f"--config-file {Path(path).parent / 'config.yaml'}, or begin a new run without --resume: with another "
            f"train.output_dir=FOLDER, and train.init_checkpoint={path} if it shall start from these weights"
        )
    damages += score_faults(state.get("hooks", {}).get("BestCheckpoint"))
    damages += loader_faults(state.get("data_loader"), trainer.data_loader, iteration)
    damages += scaler_faults(state.get("grad_scaler"), trainer.grad_scaler)
    damages += random_state_faults(saved.get("random_states"))
    _refuse_damaged(path, damages)
    for change in changes(saved, optimizer, categories, data):
        logger.warning("%s", change)


def _structure_faults(saved: dict[str, Any]) -> list[str]:
    """Descriptions of the parts of a checkpoint that have the wrong type."""
    state, optimizer = saved["trainer"], saved["trainer"]["optimizer"]
    trained = state.get("trained_weights") or {}
    groups = optimizer["param_groups"]
    iterations = [state.get("iteration"), saved.get("iteration", state.get("iteration"))]
    faults = {
        f"its iteration is {iterations[0]!r}": type(iterations[0]) is not int or iterations[0] < 0,
        f"it says {iterations[1]!r} iterations in one place and {iterations[0]!r} in another": iterations[0]
        != iterations[1],
        "its weights are no tensors by name": not (_are_tensors(saved["model"]) and _are_tensors(trained)),
        "its hooks have no state by name": not isinstance(state.get("hooks", {}), dict),
        "its optimizer has no groups of parameters": not (
            isinstance(groups, list)
            and all(isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups)
            and all(type(index) is int for group in groups for index in group["params"])
        ),
        "its optimizer has no state by parameter": not (
            isinstance(optimizer["state"], dict) and all(isinstance(v, dict) for v in optimizer["state"].values())
        ),
    }
    return [words for words, is_fault in faults.items() if is_fault]


def _are_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(tensor, Tensor) for tensor in value.values())


def _refuse_damaged(path: str, faults: list[str]) -> None:
    if faults:
        raise UserError(f"--resume: {path} is damaged: {faults[0]}.{_others(path)}")


def _others(path: str) -> str:
    """Advice for a damaged checkpoint: the other ones in its folder."""
    others = Path(path).parent.glob("model_*.pth")
    names = sorted(file.name for file in others if file.name not in (Path(path).name, BEST))
    if not names:
        return " There is no other checkpoint in its folder; begin a new run without --resume"
    return f" Write the name of an earlier checkpoint into last_checkpoint; its folder also has {', '.join(names[-3:])}"


def differences(saved: dict[str, Tensor], own: dict[str, Tensor]) -> Iterator[str]:
    """Descriptions of tensors that are missing on one side or differ in shape."""
    for name, tensor in own.items():
        if name not in saved:
            yield f"it has no tensor {name}, which the model has with shape {tuple(tensor.shape)}"
        elif saved[name].shape != tensor.shape:
            yield f"{name} has shape {tuple(saved[name].shape)} there and {tuple(tensor.shape)} in the model"
    for name, tensor in saved.items():
        if name not in own:
            yield f"its tensor {name} of shape {tuple(tensor.shape)} is not in the model"


def group_differences(groups: list[dict], states: dict[int, dict], optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """Descriptions of differences in the grouping or order of the optimizer's parameters."""
    keys = "look at optimizer.params.lr_factor_func.factors and at model.detector.backbone.freeze_stages"
    there, here = ([len(group["params"]) for group in some] for some in (groups, optimizer.param_groups))
    if there != here:
        yield f"its optimizer has groups of {there} parameters and the config's has groups of {here} ({keys})"
        return
    for old, new in zip(groups, optimizer.param_groups, strict=True):
        for index, parameter in zip(old["params"], new["params"], strict=True):
            for name, value in states.get(index, {}).items():
                if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                    shapes = f"shape {tuple(value.shape)} there and {tuple(parameter.shape)} in the config"
                    yield f"the optimizer's {name} of parameter {index} has {shapes} ({keys})"


def changes(
    saved: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    categories: list[dict] | None,
    data: TrainingData | None,
) -> Iterator[str]:
    """Sentences about changes since the checkpoint that do not prevent the run from continuing."""
    state = saved["trainer"]["optimizer"]
    if kept := list(kept_settings(state["param_groups"], optimizer)):
        yield f"The optimizer continues with the settings it began with: {'; '.join(kept)}"
    if not state["state"] and _keeps_state(optimizer):
        yield "The checkpoint has no state of the optimizer, which starts anew: this is not an exact continuation."
    if renamed := list(renamed_classes(saved.get("categories"), categories)):
        yield f"The classes are not those of the checkpoint, and the model learns the new ones: {'; '.join(renamed)}."
    if data is not None:
        yield from data.changes(saved.get("data"))


def _keeps_state(optimizer: torch.optim.Optimizer) -> bool:
    return any(group.get("momentum", 1) for group in optimizer.param_groups)


def kept_settings(groups: list[dict], optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """Settings of the saved groups that differ from the config's, such as "lr=0.0001, not 0.0005"; each once."""
    said = set()
    for old, new in zip(groups, optimizer.param_groups, strict=True):
        old = old | {"lr": old.get("initial_lr", old["lr"])}  # the schedule has changed lr since
        for name in [name for name in new if name in old and name != "params"]:
            text = f"{name}={old[name]}, not {new[name]}"
            if plain(old[name]) != plain(new[name]) and text not in said:
                said.add(text)
                yield text


def plain(value: Any) -> Any:
    """Lists as tuples, which is what optimizers have in their place."""
    return tuple(value) if isinstance(value, list | tuple) else value


def renamed_classes(saved: Any, own: list[dict] | None, limit: int = 3) -> Iterator[str]:
    """Classes that have another name than in the checkpoint, the first few; none where either has no names."""
    if not isinstance(saved, list) or not own or not all(isinstance(category, dict) for category in saved):
        return
    pairs = [(old.get("name"), new["name"]) for old, new in zip(saved, own, strict=False)]
    renamed = [(k, old, new) for k, (old, new) in enumerate(pairs) if old != new]
    for k, old, new in renamed[:limit]:
        yield f"class {k} was {old!r} and is {new!r}"
    if len(renamed) > limit:
        yield f"{len(renamed) - limit} more"


def keep_seed(recipe: DictConfig, trainer: Trainer) -> None:
    """Record the seed that a resumed run uses, which is that of its beginning, and warn if the config has another.

    Args:
        recipe: the future content of config.yaml; changed in place.
        trainer: after the checkpoint is loaded.
    """
    state = trainer.data_loader.state_dict() if hasattr(trainer.data_loader, "state_dict") else {}
    used, given = state.get("seed"), OmegaConf.select(recipe, "dataloader.train.seed")
    if used is None or given is None or given < 0 or given == used:
        return
    key = "train.seed" if OmegaConf.select(recipe, "train.seed") == given else "dataloader.train.seed"
    logger.warning("%s=%d is not used: the run keeps the seed that it began with, %d.", key, given, used)
    OmegaConf.update(recipe, key, used)
