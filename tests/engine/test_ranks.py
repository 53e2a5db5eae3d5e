# SPDX-License-Identifier: Apache-2.0
"""The death of a rank is told in one line by the others, which end; signals reach all ranks through their parent."""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.distributed as dist

from dino_d2.engine import ranks
from dino_d2.engine.ranks import last_words
from dino_d2.engine.records import FAILED, FOLLOWED, LEFT, Record, RecordFile, first_dead
from tests.engine.test_distributed import free_port
from tests.processes import run_python
from tests.small_data import generate_shapes

gloo = pytest.mark.skipif(torch.cuda.is_available(), reason="gloo is for machines without a GPU")


# --- records ---------------------------------------------------------------------------------------------------------


def process_with(folder, record: Record) -> int:
    """A process that has written its record and holds it, until it is killed."""
    ready, said = os.pipe()
    process = os.fork()
    if process == 0:
        file = RecordFile(folder, record.rank)
        file.write(record)
        file.hold()
        if os.fork() == 0:  # as a loading process does, this one lives on
            os.close(said)
            time.sleep(3)
            os._exit(0)
        os.write(said, b".")
        time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    return process


def end(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)


def test_a_killed_rank_is_known_by_its_lock_and_its_record(tmp_path):
    files = [RecordFile(tmp_path, rank) for rank in range(3)]
    assert first_dead(files) is None, "no rank has started yet"
    processes = [process_with(tmp_path, Record(rank, 70 + rank, f"while busy {rank}")) for rank in range(2)]
    try:
        assert first_dead(files) is None
        end(processes.pop())
        found = first_dead(files)
        assert found == Record(1, 71, "while busy 1")
        assert found.obituary().startswith(
            "rank 1 (process 71) was killed or crashed while busy 1. SIGKILL often means"
        )
        assert found.obituary("SIGKILL").startswith("rank 1 (process 71) was killed by SIGKILL while busy 1. ")
    finally:
        for process in processes:
            end(process)


def test_a_rank_with_an_error_died_before_one_without_words(tmp_path):
    files = [RecordFile(tmp_path, rank) for rank in range(3)]
    files[0].write(Record(0, 70))
    files[1].write(Record(1, 71, state=FAILED, error="ValueError: no"))
    files[2].write(Record(2, 72, state=FOLLOWED))
    assert first_dead(files).obituary() == "rank 1 (process 71) ended with an error while starting: ValueError: no"
    files[1].write(Record(1, 71, state=LEFT))
    assert first_dead(files).rank == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SystemExit("error: a.jpg is\nno image"), "a.jpg is no image"),
        (SystemExit(143), "stopped by SIGTERM"),
        (SystemExit(3), "exit status 3"),
        (ValueError("no"), "ValueError: no"),
    ],
)
def test_last_words_are_one_line(error, words):
    assert last_words(error) == words


def test_errors_of_this_rank_alone_are_not_taken_for_a_death(monkeypatch):
    monkeypatch.setattr(ranks, "death", lambda patience: "death")
    assert ranks.death_behind(RuntimeError("[pair.cc:545] gloo: Connection closed by peer")) == "death"
    assert ranks.death_behind(dist.DistBackendError("remote process exited")) == "death"
    for error in (RuntimeError("shapes cannot be multiplied"), ValueError("gloo"), torch.OutOfMemoryError("CUDA")):
        assert ranks.death_behind(error) is None


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    return [
        "--config-file",
        "configs/dino/dino_tiny_shapes.py",
        *generate_shapes(tmp_path_factory.mktemp("data") / "shapes", train=8, val=2),
        "dataloader.train.total_batch_size=2",
        "dataloader.train.num_workers=0",
        "model.detector.encoder.num_layers=1",
        "model.detector.decoder.num_layers=2",
        "train.max_iter=6",
        "train.eval_period=0",
        "train.num_pictures=0",
    ]


def start(event: str, *words: object) -> subprocess.CompletedProcess:
    """Two ranks that a process of ours has started."""
    return run_python("tests/engine/rank_driver.py", event, "--num-gpus", 2, "--dist-url", "auto", *words)


def start_with_torchrun(event: str, *words: object) -> subprocess.CompletedProcess:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    return run_python(*torchrun, "tests/engine/rank_driver.py", event, *words)


def errors(run: subprocess.CompletedProcess) -> list[str]:
    return [line for line in run.stderr.splitlines() if line.startswith("error: ")]


@gloo
@pytest.mark.slow
@pytest.mark.parametrize("event", ["kill@2", "hang@2"])
def test_a_killed_rank_is_told_in_one_line_with_its_images(event, options, tmp_path):
    run = start(event, *options, f"train.output_dir={tmp_path}")
    assert run.returncode == 1, run.stdout + run.stderr
    assert "Traceback" not in run.stdout + run.stderr
    assert "woke up" not in run.stdout
    (line,) = errors(run)
    assert line.startswith("error: rank 1 (process ")
    assert ") was killed by SIGKILL while training on /" in line
    assert ".png (image id " in line
    assert run.stderr.splitlines()[-1] == line


@gloo
@pytest.mark.slow
def test_an_error_of_one_rank_is_told_by_the_others(options, tmp_path):
    run = start("raise@2", *options, f"train.output_dir={tmp_path}")
    assert run.returncode == 1, run.stdout + run.stderr
    told, traceback = errors(run)
    assert told.startswith("error: rank 1 (process ")
    assert " ended with an error while training on /" in told
    assert told.endswith(": ValueError: no such thing")
    assert traceback.endswith(" ended with an exception:")
    output = run.stdout + run.stderr
    assert output.count("Traceback") == 1, "that of the rank with the error"
    assert "gloo" not in output


@gloo
@pytest.mark.slow
@pytest.mark.large_memory
def test_ranks_of_torchrun_tell_of_a_killed_one(options, tmp_path):
    run = start_with_torchrun("kill@2", *options, f"train.output_dir={tmp_path}")
    assert run.returncode == 1, run.stdout + run.stderr
    (line,) = errors(run)
    assert line.startswith("error: rank 1 (process ")
    assert ") was killed or crashed while training on /" in line
    assert "pair.cc" not in run.stdout + run.stderr


@gloo
@pytest.mark.slow
@pytest.mark.parametrize(("event", "status"), [("SIGINT@2", 130), ("SIGTERM@2", 0), ("SIGHUP@2", 129)])
def test_a_signal_to_the_parent_stops_all_ranks_with_their_state_saved(event, status, options, tmp_path):
    run = start(event, *options, f"train.output_dir={tmp_path}")
    output = run.stdout + run.stderr
    assert run.returncode == status, output
    assert "Traceback" not in output
    name = (tmp_path / "last_checkpoint").read_text()
    assert name in ("model_0000002.pth", "model_0000003.pth"), "the signal takes a moment to come back"
    assert torch.load(tmp_path / name, weights_only=True)["iteration"] == int(name[6:13])
    assert len([line for line in output.splitlines() if f"Stopped by {event[:-2]} after iteration" in line]) == 1
    assert errors(run) == []


@gloo
@pytest.mark.slow
@pytest.mark.large_memory
@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("kill@2", "error: rank 1 gives no answer: killed or crashed, or the machine cannot be reached."),
        ("raise@2", "error: rank 1 (process "),
    ],
)
def test_a_death_on_one_machine_is_told_on_the_other(event, words, options, tmp_path):
    """Both machines are this one, with one rank each."""
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", os.getpid()]
    torchrun = ["-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1, *meeting]
    command = [*torchrun, "tests/engine/rank_driver.py", event, *options, f"train.output_dir={tmp_path}"]
    with ThreadPoolExecutor() as machines:
        runs = [machines.submit(run_python, *command) for _ in range(2)]
    (line,) = [line for run in runs for line in errors(run.result())]
    assert line.startswith(words)
    if event == "raise@2":
        assert line.endswith(": ValueError: no such thing")
    for run in runs:
        assert run.result().returncode == 1
        assert "pair.cc" not in run.result().stdout + run.result().stderr
