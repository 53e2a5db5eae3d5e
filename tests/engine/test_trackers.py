# SPDX-License-Identifier: Apache-2.0
"""Weights & Biases and MLflow: what is sent to them, and that a resumed run continues the same run there.

Modules that record their calls stand in for the packages; the tests at the end use the packages themselves where they
are installed.
"""

import json
import sys
import types

import pytest
from omegaconf import OmegaConf

from dino_d2.detectron2.config import LazyCall as L
from dino_d2.detectron2.utils.events import EventStorage
from dino_d2.engine.trackers import check_trackers, settings, trackers
from dino_d2.errors import UserError
from tests.engine.test_resume import TINY
from tests.in_process import run_train_net
from tests.small_data import generate_shapes


class FakeWandb(types.ModuleType):
    """Records runs: {id: {"arguments", "axis", "rows", "exit_codes"}}."""

    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.runs: dict[str, dict] = {}

    def init(self, **arguments):
        name = arguments["id"] or f"run{len(self.runs)}"
        record = self.runs.setdefault(name, {"arguments": [], "axis": [], "rows": [], "exit_codes": []})
        record["arguments"].append(arguments)
        return types.SimpleNamespace(
            id=name,
            define_metric=lambda pattern, step_metric: record["axis"].append((pattern, step_metric)),
            log=record["rows"].append,
            finish=lambda exit_code: record["exit_codes"].append(exit_code),
        )


class MlflowError(Exception):
    pass


class FakeMlflow(types.ModuleType):
    """Records runs as :class:`FakeWandb` does; ``fails`` makes the next batches of metrics fail."""

    def __init__(self):
        super().__init__("mlflow")
        self.exceptions = types.SimpleNamespace(MlflowException=MlflowError)
        self.entities = types.SimpleNamespace(
            Metric=lambda key, value, timestamp, step: (key, value, step), Param=lambda key, value: (key, value)
        )
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict] = {}
        self.fails = False

    def MlflowClient(self):
        def known(name):
            number = self.experiments.get(name)
            return number and types.SimpleNamespace(experiment_id=number)

        def create_run(experiment, run_name):
            name = f"run{len(self.runs)}"
            self.runs[name] = {"name": run_name, "params": {}, "metrics": [], "status": ["RUNNING"]}
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=name))

        def log_batch(run, metrics=(), params=()):
            if self.fails:
                raise MlflowError("no answer")
            assert len(metrics) <= 1000
            assert len(params) <= 100, "the server takes no more at once"
            self.runs[run]["metrics"] += metrics
            self.runs[run]["params"].update(params)

        return types.SimpleNamespace(
            get_experiment_by_name=known,
            create_experiment=lambda name: self.experiments.setdefault(name, str(len(self.experiments) + 1)),
            create_run=create_run,
            log_batch=log_batch,
            update_run=lambda run, status: self.runs[run]["status"].append(status),
            set_terminated=lambda run, status: self.runs[run]["status"].append(status),
        )


@pytest.fixture
def fakes(monkeypatch):
    packages = {"wandb": FakeWandb(), "mlflow": FakeMlflow()}
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("dino_d2.engine.trackers._is_installed", lambda package: True)
    return types.SimpleNamespace(**packages)


def config(folder, wandb="cells", mlflow="cells"):
    return OmegaConf.create(
        {
            "train": {"output_dir": str(folder), "wandb": {"project": wandb}, "mlflow": {"experiment": mlflow}},
            "optimizer": {"_target_": "torch.optim.AdamW", "lr": 1e-4},
        }
    )


def write(writers, **rows):
    """Let the writers write one iteration after the other: it0={"loss": 1.0}."""
    for name, values in rows.items():
        with EventStorage(int(name[2:])) as storage:
            storage.put_scalars(**values, smoothing_hint=False)
            for writer in writers:
                writer.write()


def test_all_values_are_sent_once_with_their_iteration(fakes, tmp_path):
    folder = tmp_path / "first"
    folder.mkdir()
    writers = trackers(config(folder), resume=False)
    write(writers, it0={"loss": 1.0}, it1={"loss": 0.5, "bbox/AP-cell (red)": float("nan")})
    write(writers, it1={"loss": 0.5})
    for writer in writers:
        writer.close()
    (wandb,), (mlflow,) = fakes.wandb.runs.values(), fakes.mlflow.runs.values()
    assert [(row["iteration"], row["loss"]) for row in wandb["rows"]] == [(0, 1.0), (1, 0.5)]
    assert wandb["axis"] == [("*", "iteration")]
    (arguments,) = wandb["arguments"]
    assert (arguments["project"], arguments["name"], arguments["dir"]) == ("cells", "first", str(folder))
    assert arguments["config"]["optimizer.lr"] == 1e-4
    assert wandb["exit_codes"] == [0]
    assert mlflow["metrics"] == [("loss", 1.0, 0), ("loss", 0.5, 1)], "MLflow has no NaN in its charts"
    assert mlflow["params"]["optimizer.lr"] == "0.0001"
    assert mlflow["name"] == "first"
    assert mlflow["status"] == ["RUNNING", "FINISHED"]
    assert fakes.mlflow.experiments == {"cells": "1"}


def test_a_resumed_run_continues_its_runs_and_another_one_begins_new_ones(fakes, tmp_path):
    for resume in (False, True):
        trackers(config(tmp_path), resume)
    assert len(fakes.wandb.runs) == len(fakes.mlflow.runs) == 1
    assert fakes.mlflow.runs["run0"]["status"] == ["RUNNING", "RUNNING"]
    assert json.loads((tmp_path / "tracker_runs.json").read_text()) == {"wandb": "run0", "mlflow": "run0"}
    trackers(config(tmp_path), resume=False)
    assert len(fakes.wandb.runs) == len(fakes.mlflow.runs) == 2


def test_a_tracker_that_is_switched_on_later_begins_a_run(fakes, tmp_path):
    trackers(config(tmp_path, mlflow=None), resume=False)
    trackers(config(tmp_path), resume=True)
    assert json.loads((tmp_path / "tracker_runs.json").read_text()) == {"wandb": "run0", "mlflow": "run0"}


def test_without_a_key_nothing_is_imported_or_written(tmp_path, monkeypatch):
    for package in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it fails
    assert trackers(config(tmp_path, wandb=None, mlflow=None), resume=False) == []
    assert list(tmp_path.iterdir()) == []


def test_damaged_ids_are_said(fakes, tmp_path):
    (tmp_path / "tracker_runs.json").write_text("{")
    with pytest.raises(UserError, match=r"tracker_runs\.json is damaged"):
        trackers(config(tmp_path), resume=True)


def test_a_server_that_does_not_answer_costs_a_warning(fakes, tmp_path, caplog):
    writers = trackers(config(tmp_path, wandb=None), resume=False)
    fakes.mlflow.fails = True
    write(writers, it0={"loss": 1.0})
    assert "MLflow has not taken the metrics up to iteration 0: no answer" in caplog.text


def test_a_tracker_that_does_not_start_is_said(fakes, tmp_path, monkeypatch):
    def fail(**_):
        raise FakeWandb.Error("no API key")

    monkeypatch.setattr(fakes.wandb, "init", fail)
    with pytest.raises(UserError, match=r"train\.wandb\.project=cells: .* no API key\. .* WANDB_MODE=offline"):
        trackers(config(tmp_path), resume=False)
    fakes.mlflow.fails = True
    with pytest.raises(UserError, match=r"train\.mlflow\.experiment=cells: MLflow does not start: no answer"):
        trackers(config(tmp_path, wandb=None), resume=False)


@pytest.mark.parametrize(("package", "key"), [("wandb", "train.wandb.project"), ("mlflow", "train.mlflow.experiment")])
def test_a_missing_package_names_the_extra(package, key, monkeypatch, tmp_path):
    (tmp_path / package).mkdir()  # W&B itself makes a folder of this name, which is not the package
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, package, raising=False)
    cfg = config(tmp_path, **{"wandb": None, "mlflow": None, package: "cells"})
    with pytest.raises(UserError, match=rf"{key}=cells: .* pip install 'dino_d2\[{package}\]', or .* {key}=null"):
        check_trackers(cfg)


def test_the_values_of_a_config_are_sent_by_key():
    cfg = OmegaConf.create({"a": L(UserError)(b=[1, 2], c=None, d={})}, flags={"allow_objects": True})
    assert settings(cfg) == {"a._target_": "dino_d2.errors.UserError", "a.b": "[1, 2]", "a.c": None, "a.d": "{}"}


def test_a_run_is_tracked_and_a_finished_one_is_not_begun_again(fakes, tmp_path):
    options = [*TINY, *generate_shapes(tmp_path / "shapes", train=2, val=2), f"train.output_dir={tmp_path}/run"]
    options += ["train.max_iter=1", "train.wandb.project=cells", "train.mlflow.experiment=cells"]
    run_train_net(*options)
    (wandb,), (mlflow,) = fakes.wandb.runs.values(), fakes.mlflow.runs.values()
    assert any("total_loss" in row for row in wandb["rows"])
    assert {"total_loss", "lr"} <= {name for name, *_ in mlflow["metrics"]}
    assert wandb["arguments"][0]["config"]["train.max_iter"] == 1
    run_train_net(*options[:2], "--resume", *options[2:])
    assert len(wandb["arguments"]) == 1
    assert mlflow["status"] == ["RUNNING", "FINISHED"]


# The packages themselves, without a network.


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for resume in (False, True):
        writers = trackers(config(tmp_path, mlflow=None), resume)
        write(writers, it0={"loss": 1.0})
        writers[0].close()
    name = json.loads((tmp_path / "tracker_runs.json").read_text())["wandb"]
    assert {path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")} == {name}


def test_mlflow_in_a_local_folder(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for resume, rows in ((False, {"it0": {"bbox/AP": 1.0}}), (True, {"it1": {"bbox/AP": 2.0}})):
        writers = trackers(config(tmp_path, wandb=None), resume)
        write(writers, **rows)
        writers[0].close()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("cells").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.0001"
    assert [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, "bbox/AP")] == [(0, 1), (1, 2)]
