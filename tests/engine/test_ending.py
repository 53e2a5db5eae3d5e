# SPDX-License-Identifier: Apache-2.0
"""How a training ends: the schedule's last value, hooks after errors, and runs resumed at or beyond their end."""

import json
import shutil

import pytest
import torch
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    StepParamScheduler,
)
from torch import nn

from dino_d2.detectron2.engine import HookBase, hooks
from dino_d2.detectron2.solver import WarmupParamScheduler
from dino_d2.engine import Trainer
from dino_d2.engine.checkpointer import AtomicCheckpointer, PeriodicCheckpointer
from dino_d2.engine.loop import EvalHook
from dino_d2.engine.optim import ClosedSchedule
from tests.engine.test_resume import TINY, contents, differences
from tests.in_process import run_train_net
from tests.small_data import generate_shapes

CONSTANT = ConstantParamScheduler(0.5)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return {"loss": (self.weight * len(batch)).sum()}


def make_trainer(schedule=CONSTANT) -> Trainer:
    model = Scale()
    trainer = Trainer(model, [[{"image_id": 1}]] * 100, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([hooks.LRScheduler(scheduler=ClosedSchedule(schedule))])
    return trainer


@pytest.mark.parametrize(
    ("schedule", "last"),
    [
        (CONSTANT, 0.5),
        (WarmupParamScheduler(CONSTANT, 0.1, 0.5), 0.5),
        (WarmupParamScheduler(CONSTANT, 0.1, 0.5, rescale_interval=True), 0.5),
        (WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), 0.1, 1.0), None),  # no part of length 0 after it
        (StepParamScheduler(2, [1.0, 0.25]), 0.25),
    ],
)
@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_a_schedule_without_a_value_at_the_end_trains_to_the_end(schedule, last, iterations):
    trainer = make_trainer(schedule)
    trainer.train(0, iterations)
    assert trainer.iter == iterations
    if last is not None:
        assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * last)


def test_a_step_schedule_is_defined_in_a_training_of_millions_of_iterations():
    assert ClosedSchedule(StepParamScheduler(2, [1.0, 0.25]))(1 - 1e-7) == 0.25


@pytest.mark.parametrize(
    "schedule",
    [
        CosineParamScheduler(1.0, 0.1),
        LinearParamScheduler(1.0, 0.1),
        MultiStepParamScheduler([1.0, 0.1], milestones=[2], num_updates=3),
        WarmupParamScheduler(CosineParamScheduler(1.0, 0.1), 0.1, 0.3),
    ],
)
def test_other_schedules_are_unchanged_to_the_last_bit(schedule):
    points = [0.0, 0.1, 0.5, 1 - 1e-3, 1 - 1e-7, 1.0]
    assert [ClosedSchedule(schedule)(point) for point in points] == [schedule(point) for point in points]


def test_an_error_of_a_schedule_before_the_end_is_no_end():
    with pytest.raises(ZeroDivisionError):
        ClosedSchedule(lambda where: 1 / 0)(0.5)


class Recorder(HookBase):
    """Notes its calls in a list and fails where it is told to."""

    def __init__(self, name: str, calls: list[str], fails: str = ""):
        self.name, self.calls, self.fails = name, calls, fails

    def _call(self, when: str) -> None:
        self.calls.append(f"{self.name} {when}")
        if when == self.fails:
            raise OSError(f"{when} of {self.name}")

    def before_train(self) -> None:
        self._call("before_train")

    def after_train(self) -> None:
        self._call("after_train")


def test_a_hook_that_has_not_begun_does_not_end_and_hides_no_error():
    calls = []
    trainer = make_trainer()
    trainer.register_hooks(
        [Recorder("a", calls), Recorder("b", calls, fails="before_train"), Recorder("c", calls, fails="after_train")]
    )
    with pytest.raises(OSError, match="before_train of b"):
        trainer.train(0, 2)
    assert calls == ["a before_train", "b before_train", "a after_train"]


def test_all_hooks_end_and_the_first_error_is_raised(caplog):
    calls = []
    trainer = make_trainer()
    trainer.register_hooks([Recorder(name, calls, fails="after_train") for name in "ab"])
    with pytest.raises(OSError, match="after_train of a"):
        trainer.train(0, 1)
    assert calls[-2:] == ["a after_train", "b after_train"]
    assert "Recorder failed as well: OSError: after_train of b" in caplog.text


class FailsInTheLastIteration(HookBase):
    def after_step(self):
        1 / (self.trainer.max_iter - 1 - self.trainer.iter)


def test_an_error_in_the_last_iteration_is_not_followed_by_an_evaluation():
    trainer, evaluations = make_trainer(), []
    trainer.register_hooks([FailsInTheLastIteration(), EvalHook(0, lambda: evaluations.append(1))])
    with pytest.raises(ZeroDivisionError):
        trainer.train(0, 2)
    assert evaluations == []


def test_a_training_with_nothing_left_evaluates_at_its_last_iteration():
    trainer, iterations = make_trainer(), []
    trainer.register_hooks([EvalHook(0, lambda: iterations.append(trainer.storage.iter))])
    trainer.optimizer.param_groups[0]["initial_lr"] = 0.1  # as in a checkpoint
    trainer.train(3, 3)
    assert (iterations, trainer.iter) == ([3], 3)


def test_the_final_checkpoint_is_the_last_periodic_one(tmp_path):
    trainer = make_trainer()
    trainer.register_hooks([PeriodicCheckpointer(AtomicCheckpointer(trainer.model, str(tmp_path), trainer=trainer), 1)])
    trainer.train(0, 2)
    last, final = (torch.load(tmp_path / f"model_{name}.pth", weights_only=True) for name in ("0000001", "final"))
    assert differences(last, final) == []


# Runs of train_net.py.


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    return [
        *generate_shapes(root, train=6, val=2),
        "train.checkpointer.period=1",
        "train.max_iter=2",
    ]


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run_train_net(*TINY, *options, f"train.output_dir={folder}")
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def resume(run, options, *more):
    run_train_net(*TINY[:2], "--resume", *TINY[2:], *options, f"train.output_dir={run}", *more)


def test_a_finished_run_is_left_as_it_is(run, options):
    before = contents(run)
    resume(run, options)
    assert contents(run) == before
    assert "The run has finished: 2 of 2 iterations are done" in (run / "log.txt").read_text()


def test_fewer_iterations_than_are_done_are_refused(run, options):
    before = contents(run)
    with pytest.raises(SystemExit, match=r"error: --resume: .*model_final.pth was saved after 2 .* train.max_iter=1"):
        resume(run, options, "train.max_iter=1")
    assert contents(run) == before


@pytest.mark.parametrize("max_iter", [1, 2])
def test_a_run_killed_before_its_final_checkpoint_ends_as_others_do(max_iter, run, finished, options):
    name = f"model_{max_iter - 1:07d}.pth"
    (run / "last_checkpoint").write_text(name)
    (run / "model_final.pth").unlink()
    (run / "metrics.json").unlink()
    resume(run, options, f"train.max_iter={max_iter}")
    assert (run / "model_final.pth").read_bytes() == (run / name).read_bytes()
    assert (run / "last_checkpoint").read_text() == "model_final.pth"
    if max_iter == 2:
        ends = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (run, finished)]
        assert differences(*ends) == []
        lines = [json.loads((folder / "metrics.json").read_text().splitlines()[-1]) for folder in (run, finished)]
        assert lines[0]["iteration"] == lines[1]["iteration"] == 2
        assert lines[0].get("bbox/AP", "none") == pytest.approx(lines[1].get("bbox/AP", "none"), nan_ok=True)
        assert any(key.startswith("bbox/") for key in lines[1])


def test_a_constant_rate_trains_to_the_end_of_a_run(options, tmp_path):
    recipe = tmp_path / "constant.py"
    recipe.write_text(
        f"""
from fvcore.common.param_scheduler import ConstantParamScheduler
from dino_d2.detectron2.config import LazyCall as L, LazyConfig
base = LazyConfig.load({TINY[1]!r})
model, dataloader, optimizer, train = (base[key] for key in ("model", "dataloader", "optimizer", "train"))
lr_multiplier = L(ConstantParamScheduler)(value=1.0)
del base
"""
    )
    run_train_net("--config-file", str(recipe), *TINY[2:], *options, f"train.output_dir={tmp_path}/run")
    assert (tmp_path / "run" / "model_final.pth").is_file()
