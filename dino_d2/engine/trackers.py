# SPDX-License-Identifier: Apache-2.0
"""Writers of a run's metrics to experiment trackers: Weights & Biases and MLflow.

Each is switched on by one key, ``train.wandb.project`` and ``train.mlflow.experiment``. Where they send the metrics is
set by their own environment variables, such as WANDB_MODE=offline and MLFLOW_TRACKING_URI. A resumed run continues the
run that it began there; its id is kept in the output folder.
"""

import importlib.util
import json
import logging
import math
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dino_d2.detectron2.utils.events import EventWriter
from dino_d2.errors import UserError
from dino_d2.files import write_atomically

from .writers import values_after

logger = logging.getLogger("dino_d2")

#: {key that switches a tracker on: its package, which is also the name of the extra of dino_d2}.
PACKAGES = {"train.wandb.project": "wandb", "train.mlflow.experiment": "mlflow"}
#: File in the output folder with the ids of the runs of the trackers.
IDS = "tracker_runs.json"
#: Iterations over which smoothed values take their median, as in metrics.json.
WINDOW = 20
#: Most values that MLflow takes at once.
BATCH = 100


def check_trackers(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: the package of a tracker that is switched on is not installed.
    """
    for key, package in PACKAGES.items():
        value = OmegaConf.select(cfg, key)
        if value and not _is_installed(package):
            raise UserError(
                f"{key}={value}: the package {package} is not installed. Install it, pip install 'dino_d2[{package}]', "
                f"or switch it off, {key}=null"
            )


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None  # a folder wandb/ of earlier runs is no package


def trackers(cfg: DictConfig, resume: bool) -> list[EventWriter]:
    """The writers of the trackers that a config switches on; for rank 0.

    Args:
        cfg: of the run; its values are sent along.
        resume: continue the runs of the trackers whose ids are in the output folder.

    Raises:
        UserError: a tracker does not start.
    """
    folder = Path(cfg.train.output_dir)
    ids = _read_ids(folder) if resume else {}
    found: list[EventWriter] = []
    if cfg.train.wandb.project:
        wandb = WandbWriter(cfg.train.wandb.project, folder, settings(cfg), ids.get("wandb"))
        ids["wandb"] = wandb.run_id
        found.append(wandb)
    if cfg.train.mlflow.experiment:
        mlflow = MLflowWriter(cfg.train.mlflow.experiment, folder, settings(cfg), ids.get("mlflow"))
        ids["mlflow"] = mlflow.run_id
        found.append(mlflow)
    if found:
        write_atomically(folder / IDS, lambda file: file.write(json.dumps(ids).encode()))
    return found


def _read_ids(folder: Path) -> dict[str, str]:
    path = folder / IDS
    try:
        ids = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Delete it to begin new runs of the experiment trackers"
        ) from error
    return ids


def settings(cfg: DictConfig) -> dict[str, Any]:
    """The values of a config by dotted key; what is no plain value, such as a class, as text."""
    return dict(_leaves(OmegaConf.to_container(cfg, resolve=False), ""))


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    elif callable(node):
        yield prefix, f"{node.__module__}.{getattr(node, '__qualname__', type(node).__qualname__)}"
    else:
        yield prefix, node if isinstance(node, str | int | float | bool | None) else str(node)


class WandbWriter(EventWriter):
    """Logs to a run of Weights & Biases, with the iteration as the axis of all charts.

    W&B sends from a process of its own, so that a slow network does not slow the training.

    Args:
        project: of the run.
        folder: output folder; the run has its name, and W&B keeps its local files there.
        settings: the config's values by dotted key.
        run_id: continue this run; None begins one.

    Raises:
        UserError: W&B does not start, as without an account.
    """

    def __init__(self, project: str, folder: Path, settings: dict[str, Any], run_id: str | None):
        import wandb

        try:
            self._run = wandb.init(
                project=project, name=folder.name, id=run_id, resume="allow", dir=str(folder), config=settings
            )
        except wandb.Error as error:
            raise UserError(
                f"train.wandb.project={project}: W&B does not start: {error}. With the environment variable "
                "WANDB_MODE=offline it writes to the output folder alone"
            ) from error
        self.run_id: str = self._run.id
        self._run.define_metric("*", step_metric="iteration")
        self._last_iteration = -1

    def write(self) -> None:
        found = values_after(self._last_iteration, WINDOW)
        for iteration in sorted(found):
            self._run.log({**found[iteration], "iteration": iteration})
        self._last_iteration = max(found, default=self._last_iteration)

    def close(self) -> None:
        self._run.finish(exit_code=0 if sys.exc_info()[0] is None else 1)


class MLflowWriter(EventWriter):
    """Logs to a run of MLflow. A server that does not answer costs metrics there, and a warning, but not the training.

    Args:
        experiment: made if there is none of this name.
        folder: output folder, whose name the run has.
        settings: the config's values by dotted key, sent as parameters when a run begins.
        run_id: continue this run; None begins one.

    Raises:
        UserError: MLflow does not begin or continue the run.
    """

    def __init__(self, experiment: str, folder: Path, settings: dict[str, Any], run_id: str | None):
        import mlflow

        self._error = mlflow.exceptions.MlflowException
        self._metric, self._param = mlflow.entities.Metric, mlflow.entities.Param
        self._last_iteration = -1
        try:
            self._client = mlflow.MlflowClient()
            if run_id is None:
                known = self._client.get_experiment_by_name(experiment)
                number = self._client.create_experiment(experiment) if known is None else known.experiment_id
                run_id = self._client.create_run(number, run_name=folder.name).info.run_id
                self._send_settings(run_id, settings)
            else:
                self._client.update_run(run_id, status="RUNNING")
        except self._error as error:
            raise UserError(f"train.mlflow.experiment={experiment}: MLflow does not start: {error}") from error
        self.run_id: str = run_id

    def _send_settings(self, run_id: str, settings: dict[str, Any]) -> None:
        params = [self._param(_allowed(key), str(value)[:500]) for key, value in settings.items()]
        for start in range(0, len(params), BATCH):
            self._client.log_batch(run_id, params=params[start : start + BATCH])

    def write(self) -> None:
        found = values_after(self._last_iteration, WINDOW)
        now = int(time.time() * 1000)
        metrics = [
            self._metric(_allowed(name), value, now, iteration)
            for iteration in sorted(found)
            for name, value in found[iteration].items()
            if math.isfinite(value)
        ]
        self._last_iteration = max(found, default=self._last_iteration)
        try:
            for start in range(0, len(metrics), BATCH):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])
        except self._error as error:
            logger.warning("MLflow has not taken the metrics up to iteration %d: %s", self._last_iteration, error)

    def close(self) -> None:
        try:
            self._client.set_terminated(self.run_id, "FINISHED" if sys.exc_info()[0] is None else "FAILED")
        except self._error as error:
            logger.warning("MLflow has not taken the end of the run: %s", error)


def _allowed(name: str) -> str:
    """A name with the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)[:250]
