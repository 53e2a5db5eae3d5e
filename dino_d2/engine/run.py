# SPDX-License-Identifier: Apache-2.0
"""A run from its config: set-up, training, evaluation, and what it leaves in the output folder."""

import copy
import logging
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omegaconf import DictConfig
from torch import nn

from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import categories
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.engine import hooks
from dino_d2.detectron2.engine.defaults import create_ddp_model
from dino_d2.detectron2.evaluation import inference_on_dataset, print_csv_format
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.evaluation.history import MatchingHistory
from dino_d2.speed.inference import for_inference
from dino_d2.visualize import picture_of_predictions

from .building import build
from .checkpointer import AtomicCheckpointer, PeriodicCheckpointer
from .config import SCHEDULE, disable_pretrained_weights, resolve_calls
from .datasets import check_datasets, check_evaluator, dataset_names
from .ending import is_finished, write_final
from .loop import EvalHook
from .model import build_model, check_whole, load_weights, precision
from .optim import ClosedSchedule
from .panels import Panels
from .preemption import StopOnSignal
from .progress import LiveLine
from .random_state import RestoreRandomState, preserved_random_state
from .resume import can_resume, check_resume, keep_seed
from .setup import config_yaml, save_config
from .trainer import Trainer, make_ema
from .training_data import TrainingData
from .validation_loss import validation_loss
from .writers import writers

if TYPE_CHECKING:
    from dino_d2.meta_arch import DETR

logger = logging.getLogger("dino_d2")


def train(cfg: DictConfig, resume: bool) -> dict:
    """Train, evaluate, and leave weights, logs and pictures in ``cfg.train.output_dir``.

    Args:
        cfg: of the run.
        resume: go on from the last checkpoint in ``cfg.train.output_dir``, if there is one, as if never stopped.

    Returns:
        the last metrics on rank 0; nothing on other ranks or if the run had finished before.

    Raises:
        UserError, DatasetError: the data, the model or the checkpoint cannot be used. In the output folder, config.yaml
            and checkpoints are as before then.
        TrainingStopped: a signal stopped the training, which has saved a checkpoint.
    """
    start = time.perf_counter()
    resume = can_resume(cfg, resume)
    recipe = copy.deepcopy(cfg)  # for config.yaml: the schedule as the recipe has it, no model among the values
    resolve_calls(cfg, SCHEDULE)
    if resume or cfg.train.init_checkpoint:
        disable_pretrained_weights(cfg)
    check_datasets(cfg)
    check_evaluator(cfg)
    model = build_model(cfg)
    if cfg.train.init_checkpoint and not resume:
        load_weights(model, cfg.train.init_checkpoint)
    logger.info("%.2f M parameters, %.2f M trained", count(model.parameters()), count(trained(model)))
    ema = make_ema(model, cfg.train.ema.decay) if cfg.train.ema.enabled else None
    cfg.optimizer.params.model = model
    optimizer = build(cfg, "optimizer")
    if cfg.train.compile:
        model.get_submodule("detector").compile(fullgraph=True)
    ddp_model = wrap_for_ranks(model, cfg)
    trainer = Trainer(
        ddp_model,
        build(cfg, "dataloader.train"),
        optimizer,
        clip_grad_norm=cfg.train.clip_grad_norm,
        accumulate=cfg.train.accumulate,
        precision=precision(cfg),
        ema=ema,
    )
    trainer.output_dir = Path(cfg.train.output_dir)
    test_set = instantiate(cfg.dataloader.test.dataset.names)
    evaluated = model if ema is None else ema.module
    data = TrainingData({split: dataset_names(cfg, split) for split in ("train", "test")})
    checkpointer = AtomicCheckpointer(
        evaluated, cfg.train.output_dir, categories=categories(test_set), trainer=trainer, data=data
    )
    main_process = comm.is_main_process()
    if resume:
        path = checkpointer.get_checkpoint_file()
        check_resume(path, evaluated, trainer, cfg.train.max_iter, checkpointer.categories, data)
    elif main_process:
        MatchingHistory(cfg.train.output_dir).forget()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=ClosedSchedule(build(cfg, "lr_multiplier"))),
            PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer),
            StopOnSignal(checkpointer),
            EvalHook(cfg.train.eval_period, lambda: test(cfg, evaluated)),
            panels(cfg, evaluated, test_set) if main_process and cfg.train.panels.period else None,
            hooks.PeriodicWriter(writers(cfg.train.output_dir, cfg.train.max_iter), period=cfg.train.log_period)
            if main_process
            else None,
            LiveLine(cfg.train.max_iter) if main_process else None,
        ]
    )
    start_iter = 0
    if resume:
        path = checkpointer.get_checkpoint_file()
        checkpoint = checkpointer.resume_or_load("", resume=True)
        trainer.register_hooks([RestoreRandomState(checkpoint.get("random_states"))])
        start_iter = trainer.iter + 1
        if is_finished(path, start_iter, cfg.train.max_iter):
            return {}
        keep_seed(recipe, trainer)
    if main_process:
        save_config(recipe)  # last of all: a start that fails leaves the config.yaml of the run before
    if resume and start_iter == cfg.train.max_iter:
        write_final(checkpointer, path)
    trainer.train(start_iter, cfg.train.max_iter)
    if main_process:
        metrics = {k: v for k, (v, _) in trainer.storage.latest().items()}
        if cfg.train.num_pictures:
            picture_of_predictions(
                evaluated,
                test_set,
                build(cfg, "dataloader.test.mapper"),
                picture_path(cfg),
                cfg.train.num_pictures,
            )
        logger.info(summary(cfg, metrics, time.perf_counter() - start))
        return metrics
    return {}


def evaluate(cfg: DictConfig) -> dict:
    """Evaluate ``cfg.train.init_checkpoint`` on the config's test set; returns {"bbox": {"AP": ...}}.

    Raises:
        UserError: no checkpoint was named, or it is of another model.
    """
    if not cfg.train.init_checkpoint:
        raise UserError("--eval-only needs weights: give train.init_checkpoint=path/to/model_final.pth")
    recipe = copy.deepcopy(cfg)
    disable_pretrained_weights(cfg)
    check_datasets(cfg, splits=("test",))
    model = build_model(cfg)
    check_whole(load_weights(model, cfg.train.init_checkpoint))
    if comm.is_main_process() and not config_yaml(cfg).exists():
        save_config(recipe)
    return test(cfg, model)


def test(cfg: DictConfig, trained_model: nn.Module) -> dict:
    """Run the config's evaluator over its test set; training goes on as if it had not been run.

    With ``train.amp`` the model detects in that precision too.

    Returns:
        the results on rank 0, with "validation_loss" if ``train.validation_loss`` is set; nothing on other ranks.
    """
    model = for_inference(trained_model, precision(cfg))
    with preserved_random_state():
        loader, evaluator = build(cfg, "dataloader.test"), build(cfg, "dataloader.evaluator")
        try:
            results = inference_on_dataset(model, loader, evaluator)
        except DatasetError as error:
            # That of a loading process comes with the traceback there in front of its words.
            raise DatasetError(str(error).rpartition("DatasetError: ")[2]) from error
    print_csv_format(results)
    if cfg.train.validation_loss:
        results = {**results, **validation_loss(cfg, trained_model)}
    return results


def wrap_for_ranks(model: nn.Module, cfg: DictConfig) -> nn.Module:
    """The model in ``DistributedDataParallel`` where there are several ranks, with the settings of ``train.ddp``."""
    with warnings.catch_warnings():
        # PyTorch 2.14 has a new name for this setting, which older versions do not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return create_ddp_model(model, **cfg.train.ddp)


def panels(cfg: DictConfig, model: nn.Module, dataset: str) -> Panels:
    """The hook that draws what ``cfg.train.panels`` asks for."""
    mapper = build(cfg, "dataloader.test.mapper")
    return Panels(cast("DETR", model), dataset, mapper, Path(cfg.train.output_dir) / "panels", **cfg.train.panels)


def picture_path(cfg: DictConfig) -> Path:
    return Path(cfg.train.output_dir) / "predictions.png"


def summary(cfg: DictConfig, metrics: dict, seconds: float) -> str:
    """What a user wants to know after training."""
    folder = Path(cfg.train.output_dir)
    names = [name for name in ("AP", "AP50", "AP75") if f"bbox/{name}" in metrics]  # an evaluator may have others
    scores = ", ".join(f"{name} {metrics[f'bbox/{name}']:.1f}" for name in names)
    return (
        f"finished{': ' * bool(scores)}{scores} in {seconds / 60:.1f} minutes\n"
        f"  picture     {picture_path(cfg)}\n"
        f"  logs        {folder / 'metrics.json'}, {folder / 'log.txt'}, tensorboard --logdir {folder}\n"
        f"  checkpoint  {folder / 'model_final.pth'}"
    )


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def count(parameters: Iterable[nn.Parameter]) -> float:
    """Millions of parameters."""
    return sum(p.numel() for p in parameters) / 1e6
