# SPDX-License-Identifier: Apache-2.0
"""Allowed values of a config: keys that the program reads itself, and arguments of this project by name."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from .kinds import LIST, NUMBER, SWITCH, TEXT, WHOLE, Kind

Bound = tuple[Callable[[Any], bool], str]


#: Larger counts are typing errors, which would exhaust the memory instead of causing an error message.
MAX_COUNT, MAX_LAYERS, MAX_WORKERS = 1_000_000, 1000, 1024


def _between(lowest: int, highest: int) -> Bound:
    return lambda v: lowest <= v <= highest, f"from {lowest} to {highest}"


_FRACTION: Bound = (lambda v: 0 <= v <= 1, "in [0, 1]")
_POSITIVE: Bound = (lambda v: 0 < v < math.inf, "greater than 0")
_NOT_NEGATIVE: Bound = (lambda v: 0 <= v < math.inf, "0 or greater")

#: Bounds on the arguments of this project's classes and functions, by name. An entry of a list obeys that of the list.
BOUNDS: dict[str, Bound] = (
    dict.fromkeys(
        ["embed_dim", "feedforward_dim", "hidden_dim", "input_dim", "output_dim", "num_heads", "num_levels",
         "num_points", "num_queries", "num_classes", "num_objects", "norm_groups", "groups", "max_queries", "top_k",
         "total_batch_size", "batch_size", "accumulate", "short_edge_length", "short_edge_lengths",
         "crop_short_edge_lengths", "crop_size", "max_size", "steps", "num_patterns", "train", "val"],
        _between(1, MAX_COUNT),
    )
    | dict.fromkeys(["num_layers", "freeze_stages"], _between(0, MAX_LAYERS))
    | {"num_workers": _between(0, MAX_WORKERS)}
    | dict.fromkeys(
        ["dropout", "flip_probability", "label_flip_probability", "score_threshold", "iou_threshold", "share", "alpha"],
        _FRACTION,
    )
    | dict.fromkeys(["epochs", "temperature", "scale"], _POSITIVE)
    | dict.fromkeys(
        ["class_weight", "bbox_weight", "giou_weight", "proposal_weight", "no_object_weight", "class_cost",
         "bbox_cost", "giou_cost", "weight", "gamma", "positive_noise_scale", "negative_noise_scale",
         "centre_noise_scale", "size_noise_scale"],
        _NOT_NEGATIVE,
    )
)  # fmt: skip


class Setting(NamedTuple):
    """A value that the program itself reads from a config."""

    kind: Kind
    allowed: Callable[[Any], bool]
    words: str
    optional: bool = False  # whether null is allowed


#: Seeds of NumPy are below 2**32, and each rank adds its number.
MAX_SEED = 2**32 - 2**16


def _any(value: Any) -> bool:
    return True


_SWITCH = Setting(SWITCH, _any, SWITCH.words)
_PERIOD = Setting(WHOLE, lambda v: v >= 1, "at least 1")
_COUNT_OR_NONE = Setting(WHOLE, lambda v: v >= 0, "at least 0; 0 is none", optional=True)

#: Settings that may begin with ~ for the home folder.
PATHS = ("train.output_dir", "train.init_checkpoint")

SETTINGS: dict[str, Setting] = {
    "train.output_dir": Setting(TEXT, lambda v: bool(v.strip()), "the name of a folder"),
    "train.init_checkpoint": Setting(TEXT, _any, "the name of a file", optional=True),
    "train.device": Setting(TEXT, lambda v: bool(v.strip()), "a device of PyTorch such as cpu or cuda:1"),
    "train.seed": Setting(
        WHOLE, lambda v: v <= MAX_SEED, f"at most {MAX_SEED}; null or negative is a random seed", optional=True
    ),
    "train.max_iter": _PERIOD,
    "train.eval_period": Setting(WHOLE, lambda v: v >= 0, "at least 0, which evaluates at the end alone"),
    "train.validation_loss": _SWITCH,
    "train.best": Setting(
        TEXT,
        lambda v: bool(v.strip()),
        "a result of the evaluation such as bbox/AP, or null",
        optional=True,
    ),
    "train.best_mode": Setting(TEXT, lambda v: v in ("max", "min"), "max or min"),
    "train.early_stopping.patience": Setting(
        WHOLE, lambda v: v >= 1, "at least 1, or null to train to the end", optional=True
    ),
    "train.log_period": _PERIOD,
    "train.checkpointer.period": _PERIOD,
    "train.checkpointer.max_to_keep": Setting(
        WHOLE, lambda v: v >= 1, "at least 1, or null to keep all checkpoints", optional=True
    ),
    "train.accumulate": _PERIOD,
    "train.compile": _SWITCH,
    "train.clip_grad_norm": Setting(NUMBER, lambda v: v > 0, "greater than 0; a large number switches clipping off"),
    "train.amp.enabled": _SWITCH,
    "train.amp.dtype": Setting(TEXT, lambda v: v in ("bfloat16", "float16"), "bfloat16 or float16"),
    "train.ema.enabled": _SWITCH,
    "train.ema.decay": Setting(NUMBER, lambda v: 0 <= v < 1, "in [0, 1)"),
    "train.ddp.broadcast_buffers": _SWITCH,
    "train.ddp.find_unused_parameters": _SWITCH,
    "train.ddp.fp16_compression": _SWITCH,
    "train.fsdp": _SWITCH,
    "train.panels.period": _COUNT_OR_NONE,
    "train.panels.num_images": _PERIOD,
    "train.panels.show": Setting(LIST, _any, LIST.words),
    "train.panels.query": Setting(WHOLE, lambda v: v >= 0, "at least 0, or null", optional=True),
    "train.wandb.project": Setting(TEXT, _any, "the name of a project, or null", optional=True),
    "train.mlflow.experiment": Setting(TEXT, _any, "the name of an experiment, or null", optional=True),
    "train.hooks": Setting(LIST, _any, LIST.words),
    "train.num_pictures": _COUNT_OR_NONE,
    "train.cudnn_benchmark": _SWITCH,
    "train.float32_precision": Setting(
        TEXT, lambda v: v in ("", "highest", "high", "medium"), "highest, high, medium, or empty"
    ),
    "model.detector.queries.num_queries": Setting(WHOLE, *_between(1, MAX_COUNT)),
    "model.detector.decoder.num_layers": Setting(WHOLE, *_between(1, MAX_LAYERS)),
    "optimizer.lr": Setting(NUMBER, lambda v: 0 < v < math.inf, "greater than 0"),
    "optimizer.eps": Setting(NUMBER, lambda v: 0 < v < math.inf, "greater than 0"),
    "optimizer.weight_decay": Setting(NUMBER, lambda v: 0 <= v < math.inf, "0 or greater"),
    "dataloader.train.total_batch_size": Setting(WHOLE, *_between(1, MAX_COUNT)),
    "dataloader.train.num_workers": Setting(WHOLE, *_between(0, MAX_WORKERS)),
    "dataloader.train.seed": Setting(
        WHOLE, lambda v: v <= MAX_SEED, f"at most {MAX_SEED}; null or negative is a random seed", optional=True
    ),
    "dataloader.test.num_workers": Setting(WHOLE, *_between(0, MAX_WORKERS)),
    "dataloader.test.batch_size": Setting(WHOLE, *_between(1, MAX_COUNT)),
    "dataloader.evaluator.max_dets_per_image": Setting(
        WHOLE, lambda v: v >= 1, "at least 1, or null for 100", optional=True
    ),
}
