# SPDX-License-Identifier: Apache-2.0
"""A run that was stopped and resumed is the run that was never stopped, to the last bit.

The manner of the test is that of NeMo Automodel's: one run goes through, another is killed between two
checkpoints and resumed in a new process; a witness (resume_driver.py) writes down each iteration of both.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from dino_d2.detectron2.config import LazyConfig
from dino_d2.detectron2.engine import HookBase, SimpleTrainer
from dino_d2.detectron2.utils import comm
from dino_d2.engine.checkpointer import AtomicCheckpointer, PeriodicCheckpointer
from dino_d2.engine.preemption import StopOnSignal, TrainingStopped
from dino_d2.engine.random_state import random_state, set_random_state
from dino_d2.engine.run import summary
from dino_d2.errors import UserError
from dino_d2.files import write_atomically
from tests.in_process import run_train_net
from tests.paths import ROOT
from tests.processes import run_python
from tests.small_data import generate_shapes
from tests.two_ranks import run_on_two_ranks


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """A run of 16 iterations in seconds, with a running mean, that saves and evaluates after every 8."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return [
        *generate_shapes(root, train=12, val=4),
        "dataloader.train.total_batch_size=2",
        "model.detector.encoder.num_layers=1",
        "model.detector.decoder.num_layers=2",
        "train.ema.enabled=true",
        "train.max_iter=16",
        "train.eval_period=8",
        "train.checkpointer.period=8",
        "train.num_pictures=0",
    ]


def start(folder: Path, last_words: str, *arguments: str) -> subprocess.CompletedProcess:
    recipe = ["--config-file", "configs/dino/dino_tiny_shapes.py"]
    return run_python("tests/engine/resume_driver.py", folder / "record", last_words, *recipe, *arguments)


def record(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "record").read_text().splitlines()]


def checkpoint(folder: Path, name: str) -> dict:
    return torch.load(folder / name, weights_only=True)


def differences(a, b, where: str = "") -> list[str]:
    """The places at which two checkpoints are not the same to the last bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [place for key in a for place in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
        return [place for i, (x, y) in enumerate(zip(a, b, strict=True)) for place in differences(x, y, f"{where}/{i}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
    return [] if same else [where]


@pytest.fixture(scope="module")
def uninterrupted(overrides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run = start(folder, "none", *overrides, f"train.output_dir={folder}", "dataloader.train.num_workers=0")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def assert_same_run(uninterrupted: Path, resumed: Path, first: int, stopped: int) -> None:
    """`resumed` did iterations 0 to stopped - 1, then first to 15; all as `uninterrupted` did them."""
    expected, found = record(uninterrupted), record(resumed)
    assert [line["iteration"] for line in found] == [*range(stopped), *range(first, 16)]
    for part in ("images", "pixels", "lr", "losses"):
        for line in found:
            assert line[part] == expected[line["iteration"]][part], f"{part} of iteration {line['iteration']}"
    ends = [checkpoint(folder, "model_final.pth") for folder in (uninterrupted, resumed)]
    assert {"model", "trainer", "random_states"} <= ends[0].keys()
    assert {"optimizer", "trained_weights", "data_loader"} <= ends[0]["trainer"].keys()
    assert differences(*ends) == []
    # What evaluation and the predictor read is the running mean, not the weights in training.
    assert differences(ends[0]["model"], ends[0]["trainer"]["trained_weights"])


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_killed_run_goes_on_as_if_never_stopped(overrides, uninterrupted, tmp_path, num_workers):
    options = [*overrides, f"train.output_dir={tmp_path}", f"dataloader.train.num_workers={num_workers}"]
    killed = start(tmp_path, "kill@9", *options)
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000007.pth"
    resumed = start(tmp_path, "none", "--resume", *options)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same_run(uninterrupted, tmp_path, first=8, stopped=10)


@pytest.mark.slow
def test_sigterm_stops_cleanly_and_the_log_says_how_to_go_on(overrides, uninterrupted, tmp_path):
    options = [*overrides, f"train.output_dir={tmp_path}", "dataloader.train.num_workers=1"]
    stopped = start(tmp_path, "SIGTERM@6", *options)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "Traceback" not in stopped.stdout + stopped.stderr
    assert f"Stopped by SIGTERM after iteration 6 and saved {tmp_path}/model_0000006.pth" in stopped.stdout
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000006.pth"
    command = shlex.split(re.search(r"To go on:\n\s+(python .*)", stopped.stdout)[1])
    resumed = run_python(command[1], tmp_path / "record", "none", "--resume", *command[5:])
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_same_run(uninterrupted, tmp_path, first=7, stopped=7)


@pytest.mark.slow
def test_a_kill_in_the_middle_of_writing_leaves_the_checkpoint_before(overrides, tmp_path):
    options = [*overrides, f"train.output_dir={tmp_path}", "train.eval_period=0", "dataloader.train.num_workers=0"]
    options += ["train.max_iter=8", "train.checkpointer.period=2"]
    killed = start(tmp_path, "kill-writing@5", *options)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "model_0000005.pth.part").exists(), "it was not killed while writing"
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000003.pth"
    assert all(checkpoint(tmp_path, path.name) for path in tmp_path.glob("*.pth"))
    resumed = start(tmp_path, "none", "--resume", *options)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "Starting training from iteration 4" in resumed.stdout
    names = sorted(path.name for path in tmp_path.glob("model_*"))
    assert names == ["model_0000003.pth", "model_0000005.pth", "model_0000007.pth", "model_final.pth"], (
        "max_to_keep=3 counts the files of both runs, and the half one is gone"
    )


def small_run(folder: Path, iterations: int, resume: bool = False, signal_at: int | None = None, **periodic):
    """Train one weight, sending SIGUSR1 to this process during an iteration; returns the files there are then."""
    torch.manual_seed(comm.get_rank())
    model = nn.Linear(1, 1)
    model.forward = lambda batch: {"loss": nn.functional.linear(batch, model.weight).sum()}
    trainer = SimpleTrainer(model, [torch.ones(1)] * iterations, torch.optim.SGD(model.parameters(), lr=0.1))
    checkpointer = AtomicCheckpointer(model, str(folder), trainer=trainer)

    class SendSignal(HookBase):
        def before_step(self):
            if self.trainer.iter == signal_at:
                os.kill(os.getpid(), signal.SIGUSR1)

    trainer.register_hooks([SendSignal(), PeriodicCheckpointer(checkpointer, **periodic), StopOnSignal(checkpointer)])
    checkpointer.resume_or_load("", resume=resume)
    trainer.train(trainer.iter + 1 if resume else 0, iterations)
    return sorted(path.name for path in folder.iterdir())


def test_old_checkpoints_are_deleted_across_resumes(tmp_path):
    assert small_run(tmp_path, 4, period=1, max_to_keep=3) == [
        "last_checkpoint",
        *[f"model_000000{i}.pth" for i in (1, 2, 3)],
        "model_final.pth",
    ]
    (tmp_path / "last_checkpoint").write_text("model_0000003.pth")
    names = small_run(tmp_path, 6, resume=True, period=1, max_to_keep=2)
    assert names == ["last_checkpoint", "model_0000004.pth", "model_0000005.pth", "model_final.pth"]


def test_sigusr1_saves_and_stops(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(TrainingStopped):
        small_run(tmp_path, 9, signal_at=4, period=100)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000004.pth"]
    assert checkpoint(tmp_path, "model_0000004.pth")["iteration"] == 4
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_signal_in_the_last_iteration_lets_training_end(tmp_path):
    assert small_run(tmp_path, 3, signal_at=2, period=100) == ["last_checkpoint", "model_final.pth"]


def stop_on_rank_1(folder: Path) -> None:
    with pytest.raises(TrainingStopped):
        small_run(folder, 9, signal_at=4 if comm.get_rank() == 1 else None, period=3, max_to_keep=1)


@pytest.mark.slow
def test_all_ranks_stop_where_one_was_signalled_and_their_generators_are_in_the_file(tmp_path):
    run_on_two_ranks(stop_on_rank_1, tmp_path)
    saved = checkpoint(tmp_path, "model_0000004.pth")
    assert saved["iteration"] == 4
    assert [set(state) for state in saved["random_states"]] == [{"python", "numpy", "torch"}] * 2
    assert not torch.equal(*(state["torch"] for state in saved["random_states"]))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"ne")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_file_is_said_in_words(tmp_path):
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    with pytest.raises(UserError, match=r"names model_0000009\.pth, which does not exist"):
        AtomicCheckpointer(nn.Linear(1, 1), str(tmp_path)).resume_or_load("", resume=True)


def test_random_state_of_all_generators_comes_back(tmp_path):
    import random

    import numpy as np

    def draw():
        return random.gauss(0, 1), np.random.randn(3).tolist(), torch.rand(3).tolist()  # noqa: NPY002

    draw()  # the normal draws leave a second number waiting
    torch.save(random_state(), tmp_path / "state")
    expected = draw()
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected


# A resume with another config, in this process and with a model as small as it gets.


TINY = [
    "--config-file",
    str(ROOT / "configs/dino/dino_tiny_shapes.py"),
    "model.detector.embed_dim=32",
    "model.detector.backbone={name: resnet10t, pretrained: false, options: {channels: [8, 8, 8, 8]}}",
    "model.detector.neck={in_channels: {res3: 8, res4: 8, res5: 8}, norm_groups: 8}",
    "model.detector.encoder={num_layers: 1, feedforward_dim: 32, num_heads: 4}",
    "model.detector.decoder={num_layers: 1, feedforward_dim: 32, num_heads: 4}",
    "model.detector.queries.num_queries=20",
    "optimizer.params.lr_factor_func.factors={backbone: 0.1}",
    "dataloader.train.total_batch_size=1",
    "dataloader.train.num_workers=0",
    "dataloader.test.num_workers=0",
    "train.eval_period=0",
    "train.num_pictures=0",
]


def tiny(folder: Path, shapes: list[str], *arguments: str, iterations: int = 2) -> None:
    flags = [argument for argument in arguments if argument.startswith("--")]
    keys = [argument for argument in arguments if not argument.startswith("--")]
    size = [f"train.max_iter={iterations}", f"train.output_dir={folder}"]
    run_train_net(*TINY[:2], *flags, *TINY[2:], *shapes, *size, *keys)


@pytest.fixture(scope="module")
def shapes(overrides):
    """Those overrides that say which dataset."""
    return [value for value in overrides if "dataset" in value]


@pytest.fixture(scope="module")
def stopped(shapes, tmp_path_factory):
    """A run of one iteration that was evaluated on nothing."""
    folder = tmp_path_factory.mktemp("stopped")
    tiny(folder, shapes, iterations=1)
    return folder


@pytest.fixture
def run(stopped, tmp_path):
    """A copy of that run."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


REFUSED = {
    "larger layers": (
        ["model.detector.encoder.feedforward_dim=64"],
        ["detector.encoder.layers.0.feed_forward.linear1.weight has shape (32, 32) there and (64, 32) in the model"],
    ),
    "smaller layers": (["model.detector.encoder.feedforward_dim=16"], ["(32, 32) there and (16, 32) in the model"]),
    "more layers": (["model.detector.decoder.num_layers=2"], ["it has no tensor detector.decoder.layers.1.", "more"]),
    "fewer layers": (["model.detector.encoder.num_layers=0"], ["its tensor detector.encoder.layers.0.", "not in the"]),
    "other classes": (["model.detector.num_classes=3"], ["has shape (5", "(3"]),
    "other groups": (
        ["optimizer.params.lr_factor_func.factors={backbone: 0.1, neck: 0.1}"],
        ["its optimizer has groups of", "lr_factor_func.factors"],
    ),
    "no groups": (["optimizer.params.lr_factor_func.factors={}"], ["its optimizer has groups of"]),
    "more frozen": (["model.detector.backbone.freeze_stages=1"], ["its optimizer has groups of", "freeze_stages"]),
    "another optimizer": (
        ["optimizer={_target_: torch.optim.SGD, momentum: 0.9}"],
        ["its optimizer has no", "so it is no SGD"],
    ),
}


def contents(folder: Path) -> dict[str, bytes]:
    """All files but logs."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("log.txt")}


@pytest.mark.parametrize("change", REFUSED)
def test_another_model_is_refused_before_anything_is_loaded_or_written(change, shapes, run, monkeypatch):
    overrides, words = REFUSED[change]
    monkeypatch.setattr("dino_d2.engine.run.check_datasets", lambda cfg: None)
    monkeypatch.setattr(AtomicCheckpointer, "load", lambda *_: pytest.fail("loaded"))
    before = contents(run)
    with pytest.raises(SystemExit) as refusal:
        tiny(run, shapes, "--resume", *overrides)
    message = str(refusal.value)
    expected = ["error: --resume", f"{run}/model_final.pth", f"{run}/config.yaml", "train.output_dir", *words]
    assert [word for word in expected if word not in message] == [], message
    assert contents(run) == before


def test_what_may_change_is_resumed(shapes, run, tmp_path):
    other = [f"dataloader.{split}.dataset.names.train=4" for split in ("train", "test")]
    other.append(f"dataloader.train.dataset.names.root={tmp_path}/other")
    tiny(run, shapes, "--resume", *other, "train.ema.enabled=true", "train.clip_grad_norm=1", iterations=2)
    assert checkpoint(run, "model_final.pth")["iteration"] == 1
    assert LazyConfig.load(str(run / "config.yaml")).train.ema.enabled
    log = (run / "log.txt").read_text()
    assert "does not continue exactly where it stopped" in log
    assert "settings it began with" not in log


def test_the_learning_rate_of_the_beginning_is_kept_and_said(shapes, run):

    tiny(run, shapes, "--resume", "optimizer.lr=0.5", "optimizer.weight_decay=0.25")
    log = (run / "log.txt").read_text()
    assert "lr=0.0001, not 0.05" in log  # of the backbone
    assert "lr=0.001, not 0.5" in log
    assert "weight_decay=0.0001, not 0.25" in log
    assert log.count("settings it began with") == 1
    saved = checkpoint(run, "model_final.pth")["trainer"]["optimizer"]["param_groups"][0]
    assert saved["weight_decay"] == 1e-4
    assert saved["initial_lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize(("content", "words"), [(b"junk", "no PyTorch file"), (None, "holds no state of a training")])
def test_a_file_that_is_no_checkpoint_of_a_run_is_refused(content, words, shapes, run):
    if content is None:
        torch.save({"model": checkpoint(run, "model_final.pth")["model"]}, run / "model_final.pth")
    else:
        (run / "model_final.pth").write_bytes(content)
    with pytest.raises(SystemExit, match=words):
        tiny(run, shapes, "--resume")


def test_evaluation_in_the_folder_of_a_run_leaves_its_config(shapes, run):
    before = (run / "config.yaml").read_bytes()
    tiny(run, shapes, "--eval-only", f"train.init_checkpoint={run}/model_final.pth", "train.seed=7")
    assert (run / "config.yaml").read_bytes() == before


def test_evaluation_in_a_fresh_folder_says_its_config(shapes, run, tmp_path):
    tiny(tmp_path, shapes, "--eval-only", f"train.init_checkpoint={run}/model_final.pth", "train.seed=7")
    assert LazyConfig.load(str(tmp_path / "config.yaml")).train.seed == 7


def test_the_config_of_a_run_replaces_that_of_an_evaluation(shapes, run):
    for path in run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    tiny(run, shapes, "train.seed=7", iterations=1)
    written = LazyConfig.load(str(run / "config.yaml"))
    assert written.train.seed == 7
    assert "model" not in written.optimizer.params


def test_the_end_of_a_run_without_boxes_says_no_scores():
    cfg = OmegaConf.create({"train": {"output_dir": "out"}})
    assert summary(cfg, {"total_loss": 1.0}, 60).startswith("finished in 1.0 minutes")
    assert summary(cfg, {"bbox/AP": 1.0, "bbox/AP50": 2.0}, 60).startswith("finished: AP 1.0, AP50 2.0 in 1.0 minutes")


def test_a_resume_beyond_the_end_leaves_the_folder_as_it_was(shapes, stopped, tmp_path):
    folder = Path(shutil.copytree(stopped, tmp_path / "run"))
    tiny(folder, shapes, "--resume", iterations=3)
    before = contents(folder)
    with pytest.raises(SystemExit, match=r"was saved after 3 iterations, but train\.max_iter=2.*=3"):
        tiny(folder, shapes, "--resume", iterations=2)
    assert contents(folder) == before


def test_a_run_that_fails_at_its_start_leaves_the_config_of_the_run_before(shapes, run, monkeypatch):
    before = (run / "config.yaml").read_bytes()

    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("dino_d2.engine.run.writers", fail)
    with pytest.raises(OSError, match="No space"):
        tiny(run, shapes, "train.seed=7")
    assert (run / "config.yaml").read_bytes() == before


def test_the_seed_of_the_beginning_is_kept_said_and_recorded(shapes, run):
    tiny(run, shapes, "--resume", "train.seed=7")
    assert "train.seed=7 is not used: the run keeps the seed that it began with, 42" in (run / "log.txt").read_text()
    assert LazyConfig.load(str(run / "config.yaml")).train.seed == 42
    assert checkpoint(run, "model_final.pth")["trainer"]["data_loader"]["seed"] == 42


def test_other_boxes_are_said(shapes, run, tmp_path):
    root = Path(
        next(value for value in shapes if value.startswith("dataloader.train.dataset.names.root=")).split("=")[1]
    )
    shutil.copytree(root, tmp_path / "shapes")
    file = next((tmp_path / "shapes").rglob("*train*.json"))
    coco = json.loads(file.read_text())
    coco["annotations"][0]["bbox"][2] /= 2
    file.write_text(json.dumps(coco))
    tiny(
        run,
        shapes,
        "--resume",
        *(f"dataloader.{split}.dataset.names.root={tmp_path}/shapes" for split in ("train", "test")),
    )
    log = (run / "log.txt").read_text()
    assert "The annotation files of the train set are not those of the checkpoint" in log
    assert "The annotation files of the test set" not in log
