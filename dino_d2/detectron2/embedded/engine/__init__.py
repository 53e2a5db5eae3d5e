# SPDX-License-Identifier: Apache-2.0
"""The training loop, its hooks, launching processes and the command line, as in `detectron2.engine`."""
# ruff: noqa: F401

from . import hooks
from .defaults import DefaultPredictor, create_ddp_model, default_argument_parser, default_setup, default_writers
from .hooks import EvalHook, IterationTimer, LRScheduler, PeriodicCheckpointer, PeriodicWriter
from .launch import DEFAULT_TIMEOUT, launch
from .train_loop import HookBase, SimpleTrainer, TrainerBase
