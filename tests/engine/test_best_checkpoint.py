# SPDX-License-Identifier: Apache-2.0
"""model_best.pth and early stopping: which weights are kept, when a run ends, and the same after a kill."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from dino_d2.detectron2.engine import HookBase
from dino_d2.detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from dino_d2.engine import Trainer
from dino_d2.engine.best_checkpoint import BestCheckpoint, check_metric
from dino_d2.engine.checkpointer import AtomicCheckpointer, PeriodicCheckpointer
from dino_d2.engine.ending import is_finished
from dino_d2.engine.loop import EvalHook
from dino_d2.engine.random_state import RestoreRandomState, random_state, set_random_state
from dino_d2.engine.score_history import ScoreHistory, score_faults
from dino_d2.errors import UserError
from tests.engine.test_ending import Scale
from tests.engine.test_resume import TINY, differences
from tests.in_process import run_train_net
from tests.small_data import generate_shapes
from tests.two_ranks import run_on_two_ranks

NAN = float("nan")
START = random_state()


class Killed(BaseException):
    """Ends a run as SIGKILL does: no hook of the run writes anything afterwards."""


class Batches:
    """Endless batches with a state, as the training loader has."""

    batches = 0

    def __iter__(self):
        while True:
            self.batches += 1
            yield [{"image_id": self.batches}]

    def state_dict(self):
        return {"batches": self.batches}

    def load_state_dict(self, state):
        self.batches = state["batches"]


class Noise(HookBase):
    """Draws from the random generator in each iteration, as denoising does."""

    def after_step(self):
        with torch.no_grad():
            self.trainer.model.weight += torch.rand(1)


class KillAfter(HookBase):
    """Kills the run in an iteration, before anything that hooks before this one do not do."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise Killed


class Run:
    """A training of one weight that is evaluated with the given AP, by iteration.

    Args:
        kill: the place and the iteration of a kill: "evaluation" in the middle of it, "step" at the end of the
            iteration, "end" after the final evaluation.
    """

    def __init__(self, folder: Path, scores, max_iter=8, period=2, patience=None, mode="max", kill=("", -1), save=2):
        folder.mkdir(exist_ok=True)
        set_random_state(START)
        self.scores, self.kill, self.max_iter = scores, kill, max_iter
        self.evaluated: list[int] = []
        self.model = Scale()
        self.trainer = Trainer(self.model, Batches(), torch.optim.SGD(self.model.parameters(), lr=0.1))
        self.checkpointer = AtomicCheckpointer(self.model, str(folder), trainer=self.trainer)
        evaluation = EvalHook(period, self.evaluate)
        self.best = BestCheckpoint(self.checkpointer, evaluation, ScoreHistory("bbox/AP", mode), patience)
        self.trainer.register_hooks(
            [
                Noise(),
                PeriodicCheckpointer(self.checkpointer, save),
                evaluation,
                self.best,
                KillAfter(kill[1]) if kill[0] == "step" else None,
            ]
        )

    def evaluate(self):
        iteration = min(self.trainer.iter, self.max_iter - 1)
        if self.kill == ("evaluation", iteration):
            raise Killed
        self.evaluated.append(iteration)
        return {"bbox": {"AP": self.scores[iteration]}}

    def train(self):
        self.trainer.train(0, self.max_iter)
        return self

    def resume(self) -> bool:
        """As the run of a config does; returns whether there was something to do."""
        path = self.checkpointer.get_checkpoint_file()
        content = self.checkpointer.resume_or_load("", resume=True)
        self.trainer.register_hooks([RestoreRandomState(content["random_states"])])
        start = self.trainer.iter + 1
        if is_finished(path, start, self.max_iter, self.best):
            return False
        self.trainer.train(start, self.max_iter)
        return True


def files(folder: Path) -> dict:
    return {path.name: torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pth"))}


def test_the_best_weights_are_kept_with_their_score(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="dino_d2"):
        run = Run(tmp_path, {1: 10.0, 3: 30.0, 5: 30.0, 7: 20.0}).train()
    saved = files(tmp_path)
    assert saved["model_best.pth"].keys() == {"model", "iteration", "best"}
    assert saved["model_best.pth"]["iteration"] == 3, "the first of two equal scores stays"
    assert saved["model_best.pth"]["best"] == {"metric": "bbox/AP", "value": 30.0}
    assert differences(saved["model_best.pth"]["model"], saved["model_0000003.pth"]["model"]) == []
    assert run.evaluated == [1, 3, 5, 7]
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth", "a run never resumes from the best weights"
    best = [text for text in caplog.messages if "best so far" in text]
    assert best == [
        f"bbox/AP {value} after iteration {iteration} is the best so far: saving {tmp_path}/model_best.pth"
        for value, iteration in ((10, 1), (30, 3))
    ]
    assert "bbox/AP 20 after iteration 7 is not better than 30 after iteration 3" in caplog.messages


@pytest.mark.parametrize(
    ("scores", "mode", "best"),
    [
        ([NAN, 5.0, NAN, 4.0], "max", 3),
        ([3.0, 2.0, 1.0, 1.0], "min", 5),
        ([float("inf"), 1.0, 2.0, 0.0], "max", 5),
        ([NAN] * 4, "max", None),
    ],
)
def test_values_that_are_not_finite_are_never_the_best(scores, mode, best, tmp_path):
    Run(tmp_path, dict(zip((1, 3, 5, 7), scores, strict=True)), mode=mode).train()
    saved = files(tmp_path)
    assert saved.get("model_best.pth", {}).get("iteration") == best


def test_no_patience_is_lost_before_the_first_finite_value(tmp_path):
    history = ScoreHistory("bbox/AP")
    for iteration in range(5):
        history.add(iteration, NAN)
    assert (history.best, history.since_best) == (None, 0)
    history.add(5, 0.0)
    history.add(6, NAN)
    assert history.since_best == 1


STOPS = {1: 10.0, 3: 30.0, 5: 20.0, 7: 30.0, 9: 40.0, 11: 50.0}


def test_a_run_that_gets_no_better_ends_completely(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="dino_d2"):
        run = Run(tmp_path, STOPS, max_iter=12, patience=2, save=100).train()
    assert run.evaluated == [1, 3, 5, 7], "the last evaluation is not done twice"
    final = files(tmp_path)["model_final.pth"]
    assert final["iteration"] == final["trainer"]["iteration"] == 7
    assert run.trainer.iter == run.trainer.max_iter == 8
    line = [text for text in caplog.messages if "ends early" in text]
    assert len(line) == 1
    assert "after 8 of 12 iterations: evaluations in a row without a better bbox/AP: 2" in line[0]


def test_a_run_that_was_ended_early_is_finished_or_goes_on_with_more_patience(tmp_path, caplog):
    Run(tmp_path / "a", STOPS, max_iter=12, patience=2).train()
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with caplog.at_level(logging.INFO, logger="dino_d2"):
        assert not Run(tmp_path / "a", STOPS, max_iter=12, patience=2).resume()
    assert "early stopping has ended it after 8 of 12 iterations" in caplog.text
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    assert Run(tmp_path / "a", STOPS, max_iter=12, patience=3).resume()
    Run(tmp_path / "b", STOPS, max_iter=12, patience=3).train()
    assert differences(files(tmp_path / "a"), files(tmp_path / "b")) == []


KILLS = [
    *[("evaluation", iteration) for iteration in (1, 3, 5, 7)],
    *[("step", iteration) for iteration in range(9)],
]


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize(("patience", "save"), [(None, 2), (2, 2), (2, 3)])
def test_a_killed_run_ends_with_the_same_files(kill, patience, save, tmp_path):
    settings = {"max_iter": 9 if patience is None else 12, "patience": patience, "save": save}
    scores = STOPS | {8: 60.0}
    Run(tmp_path / "whole", scores, **settings).train()
    killed = Run(tmp_path / "killed", scores, **settings, kill=kill)
    try:
        killed.train()
    except Killed:
        again = Run(tmp_path / "killed", scores, **settings)
        if (tmp_path / "killed" / "last_checkpoint").exists():
            again.resume()
        else:
            again.train()
    assert differences(files(tmp_path / "whole"), files(tmp_path / "killed")) == []


def test_a_run_killed_in_its_last_evaluation_repeats_it(tmp_path):
    scores = {1: 1.0, 3: 3.0}
    run = Run(tmp_path / "a", scores, max_iter=4, kill=("evaluation", 3))
    with pytest.raises(Killed):
        run.train()
    again = Run(tmp_path / "a", scores, max_iter=4)
    assert again.resume()
    assert again.evaluated == [3]
    Run(tmp_path / "b", scores, max_iter=4).train()
    assert differences(files(tmp_path / "a"), files(tmp_path / "b")) == []
    assert not Run(tmp_path / "a", scores, max_iter=4).resume(), "it has finished now"


def test_a_missing_file_and_another_metric_are_said(tmp_path, caplog):
    Run(tmp_path, {1: 2.0, 3: 1.0}, max_iter=4).train()
    (tmp_path / "model_best.pth").unlink()
    Run(tmp_path, {5: 1.0}, max_iter=6).resume()
    assert "model_best.pth is missing. It held the weights after iteration 1" in caplog.text
    Run(tmp_path, {5: 1.0, 7: 0.5}, mode="min").resume()
    assert "earlier evaluations compared bbox/AP (max), this run compares bbox/AP (min)" in caplog.text
    assert files(tmp_path)["model_best.pth"]["iteration"] == 7


def test_a_result_that_is_not_there_is_named_at_the_first_evaluation(tmp_path):
    run = Run(tmp_path, {1: 2.0})
    run.best.history.metric = "bbox/mAP"
    with pytest.raises(UserError, match=r"train.best=bbox/mAP: .* Did you mean bbox/AP\? It has bbox/AP\..* --resume"):
        run.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth", "no iteration is lost"


def test_a_result_that_cannot_be_there_is_refused_before_training(tmp_path):
    class Own(DatasetEvaluator):
        pass

    coco = COCOEvaluator.__new__(COCOEvaluator)
    for metric in ("bbox/AP", "bbox/APs", "bbox/AP-cat", "bbox/AP50-cat"):
        check_metric(metric, coco)
    check_metric("mine/F1", [coco, Own()])
    with pytest.raises(UserError, match=r"train.best=AP: .* Did you mean bbox/AP\?"):
        check_metric("AP", coco)
    with pytest.raises(UserError, match="no such result"):
        check_metric("segm/AP", [coco])


@pytest.mark.parametrize(
    "state",
    [
        5,
        {"metric": "bbox/AP", "mode": "max"},
        {"metric": 3, "mode": "max", "scores": []},
        *[
            {"metric": "bbox/AP", "mode": "max", "scores": scores}
            for scores in ({}, [1], [[1]], [["1", 1.0]], [[-1, 1.0]], [[1, "a"]])
        ],
    ],
)
def test_a_damaged_state_is_found(state):
    assert len(score_faults(state)) == 1


def test_a_sound_state_has_no_faults():
    history = ScoreHistory("bbox/AP")
    history.add(1, NAN)
    assert score_faults(history.state_dict()) == score_faults(None) == []


def stop_on_both_ranks(folder: Path) -> None:
    from dino_d2.detectron2.utils import comm

    run = Run(folder, STOPS, max_iter=12, patience=2)
    results = run.evaluate
    run.best.evaluation._func = lambda: results() if comm.is_main_process() else (results(), {})[1]
    run.train()
    assert run.trainer.iter == 8
    assert run.best.history.best.value == 30.0


@pytest.mark.slow
def test_all_ranks_stop_at_the_same_iteration(tmp_path):
    run_on_two_ranks(stop_on_both_ranks, tmp_path)
    assert files(tmp_path)["model_best.pth"]["iteration"] == 3


# Runs of train_net.py.


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    return [*generate_shapes(root, train=6, val=2), "train.eval_period=1", "train.ema.enabled=true"]


def run(folder: Path, options: list[str], *more: str) -> None:
    flags = [word for word in more if word.startswith("--")]
    keys = [word for word in more if not word.startswith("--")]
    settings = ["train.eval_period=1", "train.best=bbox/AP", f"train.output_dir={folder}"]
    run_train_net(*TINY[:2], *flags, *TINY[2:], *options, *settings, *keys)


def test_a_run_keeps_its_best_and_stops_early(options, tmp_path, monkeypatch):
    scores = iter([3.0, 2.0, 1.0])
    monkeypatch.setattr("dino_d2.engine.run.test", lambda cfg, model: {"bbox": {"AP": next(scores)}})
    settings = ["train.max_iter=9", "train.early_stopping.patience=1"]
    folder = tmp_path / "run"
    run(folder, options, *settings)
    best, final = (torch.load(folder / f"model_{name}.pth", weights_only=True) for name in ("best", "final"))
    assert (best["iteration"], final["iteration"]) == (0, 1)
    assert [one["name"] for one in best["categories"]] == [one["name"] for one in final["categories"]]
    assert best["model"].keys() == final["model"].keys(), "the running mean, which was evaluated"
    assert f"best        {folder}/model_best.pth: bbox/AP 3 after iteration 0" in (folder / "log.txt").read_text()
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert {line["iteration"]: line["bbox/AP"] for line in lines if "bbox/AP" in line}[1] == 2.0
    again = shutil.copytree(folder, tmp_path / "again")
    run(again, options, "--resume", *settings)
    assert "early stopping has ended it after 2 of 9 iterations" in (again / "log.txt").read_text()
    (again / "last_checkpoint").write_text("model_best.pth")
    with pytest.raises(SystemExit, match="holds no state of a training"):
        run(again, options, "--resume", *settings)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.best=bbox/mAP", r"train.best=bbox/mAP: .* Did you mean bbox/AP\?"),
        ("train.best=3", "no such result"),
        ("train.best_mode=largest", "train.best_mode='largest': must be max or min"),
        ("train.early_stopping.patience=0", "must be at least 1, or null"),
        ("train.early_stopping=3", "section"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, words, options, tmp_path):
    with pytest.raises(SystemExit, match=words):
        run(tmp_path, options, "train.max_iter=1", setting)


def test_patience_without_a_measure_is_refused(options, tmp_path):
    with pytest.raises(SystemExit, match=r"needs the result that is to improve: add train\.best=bbox/AP"):
        run(tmp_path, options, "train.best=null", "train.early_stopping.patience=3")
