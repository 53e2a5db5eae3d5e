# SPDX-License-Identifier: Apache-2.0
"""Hooks that a recipe adds to the training: ``train.hooks = [L(MyHook)(...)]``."""

from omegaconf import DictConfig

from dino_d2.detectron2.engine import HookBase
from dino_d2.errors import UserError

from .building import build


def build_hooks(cfg: DictConfig) -> list[HookBase]:
    """The hooks of ``cfg.train.hooks`` in their order.

    Raises:
        UserError: one cannot be built, is not a hook, or has a state that could not be restored.
    """
    built = [(f"train.hooks.{index}", build(cfg, f"train.hooks.{index}")) for index in range(len(cfg.train.hooks))]
    for key, hook in built:
        if not isinstance(hook, HookBase):
            raise UserError(
                f"{key}: {type(hook).__name__} is not a hook. Derive it from HookBase of dino_d2.detectron2.engine, "
                "which is Detectron2's where that is installed, and give it as L(MyHook)(...)"
            )
        if type(hook).state_dict is not HookBase.state_dict and not hasattr(hook, "load_state_dict"):
            raise UserError(
                f"{key}: {type(hook).__name__} has a state_dict but no load_state_dict, so a resumed run could not "
                "restore its state. Add load_state_dict(self, state)"
            )
    return [hook for _, hook in built]
