# SPDX-License-Identifier: Apache-2.0
"""Signals during set-up, training and data generation."""

import contextlib
import os
import signal
import threading
import time

import pytest
import torch

from dino_d2.engine import Trainer
from dino_d2.engine.checkpointer import AtomicCheckpointer
from dino_d2.engine.preemption import StopOnSignal, TrainingStopped
from dino_d2.signals import SIGNALS, Interrupted, interruptible
from tests.engine.test_ending import Scale, options  # noqa: F401
from tests.engine.test_resume import TINY
from tests.processes import run_python


class StandsStill:
    """A loader with a position that gives nothing after some batches; a signal comes while it is waited for."""

    def __init__(self, batches: int, number: int = signal.SIGTERM):
        self.batches, self.number, self.position = batches, number, 0

    def __iter__(self):
        while True:
            self.position += 1
            if self.position > self.batches:
                threading.Timer(0.2, os.kill, (os.getpid(), self.number)).start()
                time.sleep(60)
            yield [{"image_id": self.position}]

    def state_dict(self) -> dict:
        return {"position": self.position}

    def load_state_dict(self, state: dict) -> None:
        self.position = state["position"]


def train(loader, folder, iterations: int = 9, start_iter: int = 0) -> None:
    model = Scale()
    trainer = Trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.register_hooks([StopOnSignal(AtomicCheckpointer(model, str(folder), trainer=trainer))])
    trainer.train(start_iter, iterations)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_that_finds_the_loader_waiting_saves_the_iteration_before(number, status, tmp_path):
    before = [signal.getsignal(one) for one in SIGNALS]
    start = time.monotonic()
    with pytest.raises(TrainingStopped) as stopped:
        train(StandsStill(3, number), tmp_path)
    assert time.monotonic() - start < 30
    assert stopped.value.status == status
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000002.pth"]
    saved = torch.load(tmp_path / "model_0000002.pth", weights_only=True)
    assert saved["iteration"] == saved["trainer"]["iteration"] == 2
    assert saved["trainer"]["data_loader"] == {"position": 3}
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_a_signal_before_the_first_batch_saves_nothing(tmp_path):
    with pytest.raises(TrainingStopped):
        train(StandsStill(0), tmp_path)
    assert os.listdir(tmp_path) == []


def test_training_outside_the_main_thread_works(tmp_path, caplog):
    thread = threading.Thread(target=train, args=([[{"image_id": 1}]] * 2, tmp_path, 2))
    thread.start()
    thread.join()
    assert "not in the main thread" in caplog.text


SECOND = """
import os, signal, sys, threading, time
from tests.engine.test_preemption import Scale, train

def send():
    for _ in range(2):  # at the same time: they count as one
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
    time.sleep(1.5)
    print("alive", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

def stands_still(self, batch):
    threading.Thread(target=send).start()
    time.sleep(60)

Scale.forward = stands_still
train([[{"image_id": 1}]] * 9, sys.argv[1])
"""


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    start = time.monotonic()
    ended = run_python("-c", SECOND, tmp_path)
    assert ended.returncode == 128 + signal.SIGTERM, ended.stdout + ended.stderr
    assert "alive" in ended.stdout
    assert "Ended by SIGTERM at once (a second signal)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - start < 40


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted, match="SIGUSR1"), interruptible():
            os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_one_signal_that_comes_twice_interrupts_once():
    cleaned = []

    def clean_up():
        os.kill(os.getpid(), signal.SIGINT)
        cleaned.append(True)

    def be_interrupted():
        with interruptible(), contextlib.ExitStack() as stack:
            stack.callback(clean_up)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        be_interrupted()
    assert cleaned


DRAW = """
import os, signal, sys
from pathlib import Path
from dino_d2.data import shapes

def draw(root, split, recipe):
    (root / split).mkdir(parents=True)
    os.kill(os.getpid(), int(sys.argv[2]))

shapes._write_split = draw
shapes.generate(Path(sys.argv[1]) / "shapes", shapes.Recipe())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_data_generation_leaves_no_folder(number, tmp_path):
    ended = run_python("-c", DRAW, tmp_path, int(number))
    assert ended.returncode == -number
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert ended.stderr == ""


@pytest.mark.parametrize(("event", "status"), [("SIGINT@1", 130), ("SIGHUP@1", 129), ("SIGTERM@1", 0)])
def test_a_stopped_run_ends_in_one_line(event, status, options, tmp_path):  # noqa: F811
    words = [*TINY, *options, f"train.output_dir={tmp_path}", "train.max_iter=4", "dataloader.train.num_workers=1"]
    ended = run_python("tests/engine/resume_driver.py", tmp_path / "record", event, *words)
    output = ended.stdout + ended.stderr
    assert ended.returncode == status, output
    assert "Traceback" not in output
    assert f"Stopped by {event[:-2]} after iteration 1 and saved {tmp_path}/model_0000001.pth" in output
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
