# SPDX-License-Identifier: Apache-2.0
"""A run from its config: set-up, training, evaluation and results in the output folder."""

import copy
import logging
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omegaconf import DictConfig, OmegaConf
from torch import nn

from dino_d2.data.check import DatasetError
from dino_d2.data.coco_format import categories
from dino_d2.data.evaluation_loader import EvaluationLoader
from dino_d2.detectron2.config import instantiate
from dino_d2.detectron2.engine import hooks
from dino_d2.detectron2.engine.defaults import create_ddp_model
from dino_d2.detectron2.evaluation import inference_on_dataset, print_csv_format
from dino_d2.detectron2.utils import comm
from dino_d2.errors import UserError
from dino_d2.evaluation.history import MatchingHistory
from dino_d2.speed.inference import for_inference
from dino_d2.visualize import picture_of_predictions

from . import ranks
from .best_checkpoint import BestCheckpoint
from .building import build, values_of
from .checkpointer import FINAL, AtomicCheckpointer, PeriodicCheckpointer
from .collective import share_weights
from .config import SCHEDULE, disable_pretrained_weights, resolve_calls
from .datasets import check_datasets, check_evaluator, class_list, dataset_names
from .ending import is_finished, write_final
from .first_batch import PictureOfFirstBatch
from .loop import EvalHook
from .model import build_model, check_whole, load_weights, precision
from .optim import ClosedSchedule
from .output_folder import no_half_predictions
from .panels import Panels
from .preemption import StopOnSignal
from .progress import LiveLine
from .random_state import RestoreRandomState, preserved_random_state
from .resume import can_resume, check_resume, keep_seed
from .score_history import ScoreHistory
from .setup import config_yaml, save_config
from .sharding import check_sharding, load_undivided_state, shard
from .trackers import trackers
from .trainer import Trainer, make_ema
from .training_data import TrainingData
from .user_hooks import build_hooks
from .validation_loss import validation_loss
from .writers import writers

if TYPE_CHECKING:
    from dino_d2.meta_arch import DETR

logger = logging.getLogger("dino_d2")


def train(cfg: DictConfig, resume: bool) -> dict:
    """Train, evaluate, and write weights, logs and pictures to ``cfg.train.output_dir``.

    Args:
        cfg: of the run.
        resume: continue exactly from the last checkpoint in ``cfg.train.output_dir``, if there is one.

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
    own_hooks = build_hooks(cfg)
    check_sharding(cfg)
    model = build_model(cfg)
    if cfg.train.init_checkpoint and not resume:
        load_weights(model, cfg.train.init_checkpoint)
    share_weights(model)  # before it is copied or divided
    logger.info("%.2f M parameters, %.2f M trained", count(model.parameters()), count(trained(model)))
    ema = make_ema(model, cfg.train.ema.decay) if cfg.train.ema.enabled else None
    evaluated = model if ema is None else ema.module
    sharded = cfg.train.fsdp and comm.get_world_size() > 1
    undivided = shard(evaluated) if sharded else lambda: evaluated
    if sharded and ema is not None:
        shard(model)
    cfg.optimizer.params.model = model  # after sharding, which replaces the parameters
    optimizer = build(cfg, "optimizer")
    if sharded:
        load_undivided_state(optimizer)
    if cfg.train.compile:
        model.get_submodule("detector").compile(fullgraph=True)
    trainer = Trainer(
        model if sharded else wrap_for_ranks(model, cfg),
        build(cfg, "dataloader.train"),
        optimizer,
        clip_grad_norm=cfg.train.clip_grad_norm,
        accumulate=cfg.train.accumulate,
        precision=precision(cfg),
        ema=ema,
    )
    trainer.output_dir = Path(cfg.train.output_dir)
    test_set = instantiate(cfg.dataloader.test.dataset.names)
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
    evaluation = EvalHook(cfg.train.eval_period, lambda: test(cfg, undivided()))
    best = best_checkpoint(cfg, checkpointer, evaluation)
    of_metrics = writers(cfg.train.output_dir, cfg.train.max_iter) if main_process else []
    with values_of("train.checkpointer"):
        periodic_checkpointer = PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=ClosedSchedule(build(cfg, "lr_multiplier"))),
            *own_hooks,  # before checkpoints, which have their state after this iteration
            periodic_checkpointer,
            StopOnSignal(checkpointer),
            evaluation,
            best,
            picture_of_first_batch(cfg) if main_process else None,
            panels(cfg, evaluated, test_set) if main_process and cfg.train.panels.period else None,
            hooks.PeriodicWriter(of_metrics, period=cfg.train.log_period) if main_process else None,
            LiveLine(cfg.train.max_iter) if main_process else None,
        ]
    )
    start_iter = 0
    if resume:
        path = checkpointer.get_checkpoint_file()
        checkpoint = checkpointer.resume_or_load("", resume=True)
        trainer.register_hooks([RestoreRandomState(checkpoint.get("random_states"))])
        start_iter = trainer.iter + 1
        if is_finished(path, start_iter, cfg.train.max_iter, best):
            return {}
        keep_seed(recipe, trainer)
    if main_process:
        of_metrics += trackers(recipe, resume)  # not before: a run that has finished has nothing to track
        save_config(recipe)  # at the end, so that a failed start keeps the config.yaml of the previous run
    if resume and start_iter == cfg.train.max_iter and Path(path).name != FINAL:
        write_final(checkpointer, path)
    trainer.train(start_iter, cfg.train.max_iter)
    shown = undivided() if cfg.train.num_pictures else None
    if main_process:
        metrics = {k: v for k, (v, _) in trainer.storage.latest().items()}
        if shown is not None:
            picture_of_predictions(
                shown,
                test_set,
                build(cfg, "dataloader.test.mapper"),
                picture_path(cfg),
                cfg.train.num_pictures,
            )
        logger.info(summary(cfg, metrics, time.perf_counter() - start, best))
        return metrics
    return {}


def evaluate(cfg: DictConfig) -> dict:
    """Evaluate ``cfg.train.init_checkpoint`` on the config's test set; returns {"bbox": {"AP": ...}}.

    Raises:
        UserError: no checkpoint was named, it is of another model, or a loading process died.
        DatasetError: the data cannot be used.
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
    """Run the config's evaluator over its test set, without changing the training.

    With ``train.amp`` the model detects in that precision too.

    Returns:
        the results on rank 0, with "validation_loss" if ``train.validation_loss`` is set; nothing on other ranks.
    """
    model = for_inference(trained_model, precision(cfg))
    model.register_forward_pre_hook(lambda model, inputs: ranks.note_images("evaluating on", inputs[0]))
    with preserved_random_state():
        loader, evaluator = build(cfg, "dataloader.test"), build(cfg, "dataloader.evaluator")
        try:
            with no_half_predictions(Path(cfg.train.output_dir)):
                results = inference_on_dataset(model, loader, evaluator)
        except DatasetError as error:
            # Detectron2's own loader puts the traceback of a loading process in front of the words.
            raise DatasetError(str(error).rpartition("DatasetError: ")[2]) from error
        except (RuntimeError, OSError, EOFError) as error:
            explained = loader.explain(error) if isinstance(loader, EvaluationLoader) else None
            if explained is None:
                raise
            raise explained from error
    print_csv_format(results)
    if cfg.train.validation_loss:
        results = {**results, **validation_loss(cfg, trained_model)}
    return results


def wrap_for_ranks(model: nn.Module, cfg: DictConfig) -> nn.Module:
    """The model in ``DistributedDataParallel`` where there are several ranks, with the settings of ``train.ddp``."""
    with warnings.catch_warnings():
        # PyTorch 2.14 has a new name for this setting, which older versions do not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        with values_of("train.ddp"):
            return create_ddp_model(model, **cfg.train.ddp)


def best_checkpoint(cfg: DictConfig, checkpointer: AtomicCheckpointer, evaluation: EvalHook) -> BestCheckpoint | None:
    """The hook that keeps the best weights; None if the config names no ``train.best``."""
    if not cfg.train.best:
        return None
    history = ScoreHistory(cfg.train.best, cfg.train.best_mode)
    return BestCheckpoint(checkpointer, evaluation, history, cfg.train.early_stopping.patience)


def picture_of_first_batch(cfg: DictConfig) -> PictureOfFirstBatch:
    """The hook that draws the first batch of the run."""
    names = next(iter(dataset_names(cfg, "train")), None)
    image_format = OmegaConf.select(cfg, "dataloader.train.mapper.image_format") or "RGB"
    path = Path(cfg.train.output_dir) / "first_batch.png"
    return PictureOfFirstBatch(path, image_format, (class_list(names) or None) if names else None)


def panels(cfg: DictConfig, model: nn.Module, dataset: str) -> Panels:
    """The hook that draws what ``cfg.train.panels`` asks for."""
    mapper = build(cfg, "dataloader.test.mapper")
    folder = Path(cfg.train.output_dir) / "panels"
    with values_of("train.panels"):
        return Panels(cast("DETR", model), dataset, mapper, folder, **cfg.train.panels)


def picture_path(cfg: DictConfig) -> Path:
    return Path(cfg.train.output_dir) / "predictions.png"


def summary(cfg: DictConfig, metrics: dict, seconds: float, best: BestCheckpoint | None = None) -> str:
    """Scores and paths of the results, printed after training."""
    folder = Path(cfg.train.output_dir)
    names = [name for name in ("AP", "AP50", "AP75") if f"bbox/{name}" in metrics]  # an evaluator may have others
    scores = ", ".join(f"{name} {metrics[f'bbox/{name}']:.1f}" for name in names)
    text = (
        f"finished{': ' * bool(scores)}{scores} in {seconds / 60:.1f} minutes\n"
        f"  picture     {picture_path(cfg)}\n"
        f"  logs        {folder / 'metrics.json'}, {folder / 'log.txt'}, tensorboard --logdir {folder}\n"
        f"  checkpoint  {folder / FINAL}"
    )
    if best is not None and (score := best.history.best):
        result = f"{best.history.metric} {score.value:.4g} after iteration {score.iteration}"
        text += f"\n  best        {best.path}: {result}"
    return text


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def count(parameters: Iterable[nn.Parameter]) -> float:
    """Millions of parameters."""
    return sum(p.numel() for p in parameters) / 1e6
