# SPDX-License-Identifier: Apache-2.0
"""tools/trainings.py: several at a time, resumed, ended cleanly. A few lines stand for train_net.py."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import trainings
from trainings import Training

# Takes the same values, counts its folder's metrics.json up and, as train_net.py, stops cleanly at SIGTERM.
TRAINER = """
    import json, os, pathlib, signal, sys, time
    values = dict(argument.split("=", 1) for argument in sys.argv if "=" in argument)
    folder, stop = pathlib.Path(values["train.output_dir"]), []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    assert "--resume" in sys.argv and os.environ["OMP_NUM_THREADS"] == "1"
    if values["train.seed"] == "13":
        sys.exit("an unlucky seed")
    path = folder / "metrics.json"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    print("begins at", done, values)
    with path.open("a") as file:
        end = time.time() + 120
        while len(list(folder.parent.glob("*/metrics.json"))) < int(values.get("partners", 1)):
            assert time.time() < end, "the others do not begin"
            time.sleep(0.02)
        for iteration in range(done, int(values["train.max_iter"])):
            time.sleep(float(values.get("seconds", 0)))
            print(json.dumps({"iteration": iteration, "total_loss": 1, "at": time.time()}), file=file, flush=True)
            if stop:
                (folder / "checkpoint").touch()
                sys.exit()
        print(json.dumps({"iteration": int(values["train.max_iter"]), "bbox/AP": 1}), file=file)
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "trainer.py"
    path.write_text(textwrap.dedent(TRAINER))
    monkeypatch.setattr(trainings, "TRAIN", (sys.executable, str(path)))
    monkeypatch.setattr(trainings, "POLL_INTERVAL", 0.05)
    return path


def make(folder: Path, seed: int, *values: str) -> Training:
    return Training(f"recipe {seed}", folder / "recipe.py", folder / f"seed{seed}", seed, values)


def console(training: Training) -> str:
    return (training.folder / "console.txt").read_text()


def test_a_training_is_finished_when_its_last_evaluation_is_written(tmp_path):
    path = tmp_path / "metrics.json"
    assert trainings.iterations_done(tmp_path) == 0
    path.write_text('{"iteration": 99, "total_loss": 1.0}\n{"iteration": 100, "bbox/A')
    assert trainings.iterations_done(tmp_path) == 99
    path.write_text('{"iteration": 99, "total_loss": 1.0}\n{"iteration": 100, "bbox/AP": 1.0}\n')
    assert trainings.iterations_done(tmp_path) == 100


def test_as_many_run_at_a_time_as_asked_for(trainer, tmp_path):
    several = [make(tmp_path, seed, "partners=2", "seconds=0.2") for seed in range(3)]
    assert trainings.run(several, 4, 2, jobs=2) == []
    times = [[line["at"] for line in trainings.lines_of(x.folder) if "at" in line] for x in several]
    assert max(times[0][0], times[1][0]) < min(times[0][-1], times[1][-1])  # side by side
    assert times[2][0] > min(times[0][-1], times[1][-1])  # when one was done
    assert "'train.eval_period': '2'" in console(several[0])


def test_one_that_fails_does_not_stop_the_others(trainer, tmp_path, capsys):
    failures = trainings.run([make(tmp_path, seed) for seed in (13, 1)], 4, 2, jobs=1)
    assert len(failures) == 1
    assert "recipe 13 did not finish" in failures[0]
    assert "an unlucky seed" in failures[0]
    assert failures[0] in capsys.readouterr().err
    assert trainings.iterations_done(tmp_path / "seed1") == 4


def test_sigterm_lets_trainings_save_and_the_next_call_goes_on(trainer, tmp_path):
    code = (
        f"import pathlib, trainings; trainings.TRAIN = {trainings.TRAIN!r}\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "one = trainings.Training('one', folder / 'recipe.py', folder / 'seed1', 1, ('seconds=0.1',))\n"
        "trainings.run([one], 1000, 2, jobs=1)"
    )
    tools = str(Path(trainings.__file__).parent)
    with subprocess.Popen([sys.executable, "-c", code], env={"PYTHONPATH": tools}, stderr=subprocess.DEVNULL) as tool:
        while trainings.iterations_done(tmp_path / "seed1") < 1:
            assert tool.poll() is None
            time.sleep(0.05)
        tool.send_signal(signal.SIGTERM)
    assert tool.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "seed1" / "checkpoint").exists()  # and so it is not running any more
    done = len(trainings.lines_of(tmp_path / "seed1"))
    training = make(tmp_path, 1)
    assert trainings.run([training], done + 3, 1, jobs=1) == []
    assert f"begins at {done} " in console(training)


def test_finished_ones_are_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(trainings, "start", lambda *_: pytest.fail("runs again"))
    training = make(tmp_path, 1)
    training.folder.mkdir()
    (training.folder / "metrics.json").write_text(json.dumps({"iteration": 4, "bbox/AP": 1.0}) + "\n")
    assert trainings.run([training], 4, 2, jobs=1) == []


def test_the_bar_writes_few_lines_into_a_file(trainer, tmp_path, capfd):
    trainings.run([make(tmp_path, 1, "seconds=0.1")], 6, 1, jobs=1)
    assert len(capfd.readouterr().err.split("\r")) <= 4
