# SPDX-License-Identifier: Apache-2.0
"""Whether a run can go on from a checkpoint, seen before anything of it is loaded.

The optimizer's state in particular is put in place without a look at its shapes, and a fused kernel would write beyond
the end of tensors of other sizes.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dino_d2.checkpoint.files import read_torch
from dino_d2.errors import UserError

logger = logging.getLogger("dino_d2")


def can_resume(cfg: DictConfig, resume: bool) -> bool:
    """Whether to go on from a checkpoint: asked for, and there is one in the output folder."""
    return resume and (Path(cfg.train.output_dir) / "last_checkpoint").is_file()


def check_resume(path: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Compare a checkpoint with what it would be loaded into; a warning names settings that it brings back.

    Args:
        path: checkpoint of an :class:`~dino_d2.engine.checkpointer.AtomicCheckpointer` with a trainer.
        model: of the config.
        optimizer: of this model.

    Raises:
        UserError: the file cannot be read or is of no training, the model has other tensors, or the optimizer has
            other groups of parameters.
    """
    try:
        saved = read_torch(path)
    except (ValueError, OSError) as error:
        raise UserError(f"--resume: {error}") from error
    try:
        tensors, optimizer_state = saved["model"], saved["trainer"]["optimizer"]
        groups, states = optimizer_state["param_groups"], optimizer_state["state"]
    except (TypeError, KeyError) as error:
        raise UserError(
            f"--resume: {path} holds no state of a training. Name a checkpoint of this run in last_checkpoint, or "
            f"begin a new run from it without --resume: train.init_checkpoint={path} train.output_dir=FOLDER"
        ) from error
    found = list(differences(tensors, model.state_dict())) or list(group_differences(groups, states, optimizer))
    if found:
        more = f" ({len(found) - 1} more differ)" if len(found) > 1 else ""
        raise UserError(
            f"--resume: {path} does not belong to this config: {found[0]}{more}. Go on with the config of the run, "
            f"--config-file {Path(path).parent / 'config.yaml'}, or begin a new run without --resume: with another "
            f"train.output_dir=FOLDER, and train.init_checkpoint={path} if it shall start from these weights"
        )
    if kept := list(kept_settings(groups, optimizer)):
        logger.warning("The optimizer goes on with the settings it began with: %s", "; ".join(kept))


def differences(saved: dict[str, Tensor], own: dict[str, Tensor]) -> Iterator[str]:
    """Tensors that are not in both or not of the same shape, in words."""
    for name, tensor in own.items():
        if name not in saved:
            yield f"it has no tensor {name}, which the model has with shape {tuple(tensor.shape)}"
        elif saved[name].shape != tensor.shape:
            yield f"{name} has shape {tuple(saved[name].shape)} there and {tuple(tensor.shape)} in the model"
    for name, tensor in saved.items():
        if name not in own:
            yield f"its tensor {name} of shape {tuple(tensor.shape)} is not in the model"


def group_differences(groups: list[dict], states: dict[int, dict], optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """Where the optimizer's parameters are grouped, or ordered, in another way than the saved ones, in words."""
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


def kept_settings(groups: list[dict], optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """What the saved groups say otherwise than the config, such as "lr=0.0001, not 0.0005"; once each."""
    said = set()
    for old, new in zip(groups, optimizer.param_groups, strict=True):
        old = old | {"lr": old.get("initial_lr", old["lr"])}  # the schedule has changed lr since
        for name in [name for name in new if name in old and name != "params"]:
            text = f"{name}={old[name]}, not {new[name]}"
            if plain(old[name]) != plain(new[name]) and text not in said:
                said.add(text)
                yield text


def plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
