# SPDX-License-Identifier: Apache-2.0
"""Runs of train_net.py, several at the same time; shared by ablate.py and compare_family.py.

The progress of a training is read from its folder, and starting it again resumes it. Each training has one thread,
which is efficient for small models. Their times are comparable if there are no more trainings at a time than cores and
the machine has no other work.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
TRAIN = (sys.executable, str(ROOT / "train_net.py"))
POLL_INTERVAL = 0.5  # seconds


@dataclass(frozen=True)
class Training:
    """One run of train_net.py.

    Args:
        name: shown in the progress bar and in errors.
        config: config file.
        folder: output folder; its console.txt has the run's output.
        seed: ``train.seed``.
        values: overrides of the config, such as ``train.device=cpu``.
    """

    name: str
    config: Path
    folder: Path
    seed: int
    values: tuple[str, ...] = ()


def lines_of(folder: Path) -> list[dict]:
    """Lines of metrics.json, without a last line that is still being written."""
    path = folder / "metrics.json"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def iterations_done(folder: Path) -> int:
    """Iterations that a training has done; its last one counts only after the evaluation that follows it."""
    lines = lines_of(folder)
    evaluated = max((line["iteration"] for line in lines if "bbox/AP" in line), default=0)
    return max([evaluated, *(line["iteration"] for line in lines if "total_loss" in line)])


def unfinished(trainings: Sequence[Training], iterations: int) -> list[Training]:
    """Trainings that have not done the given number of iterations."""
    return [training for training in trainings if iterations_done(training.folder) < iterations]


def run(trainings: Sequence[Training], iterations: int, evaluations: int, jobs: int) -> list[str]:
    """Run the unfinished trainings in their order. Ctrl-C and SIGTERM make them save a checkpoint and stop.

    Args:
        trainings: each with its own folder.
        iterations: iterations of each training.
        evaluations: evaluations of each training, evenly spaced.
        jobs: trainings at the same time.

    Returns:
        a message with the end of its output for each training that failed; the others continue.
    """
    waiting = unfinished(trainings, iterations)
    running: dict[Training, subprocess.Popen] = {}
    failures = []
    with stopped_by_sigterm(), progress_bar(trainings, iterations) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running[waiting[0]] = start(waiting[0], iterations, evaluations)
                    del waiting[0]
                time.sleep(POLL_INTERVAL)
                for training in [training for training, process in running.items() if process.poll() is not None]:
                    if running.pop(training).returncode or unfinished([training], iterations):
                        failures.append(failure(training))
                        bar.write(f"error: {failures[-1]}", file=sys.stderr)
                bar.set_postfix_str(", ".join(training.name for training in running), refresh=False)
                bar.update(iterations_of_all(trainings, iterations) - bar.n)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    return failures


def start(training: Training, iterations: int, evaluations: int) -> subprocess.Popen:
    """Start train_net.py, which resumes from the last checkpoint."""
    period = max(1, iterations // evaluations)
    training.folder.mkdir(parents=True, exist_ok=True)
    with open(training.folder / "console.txt", "a") as console:
        return subprocess.Popen(
            [
                *(*TRAIN, "--resume", "--config-file", str(training.config.absolute())),
                f"train.output_dir={training.folder.absolute()}",
                f"train.seed={training.seed}",
                f"train.max_iter={iterations}",
                f"train.eval_period={period}",
                f"train.checkpointer.period={period}",
                "train.checkpointer.max_to_keep=1",
                "train.num_pictures=0",
                *training.values,
            ],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdout=console,
            stderr=console,
            start_new_session=True,  # Ctrl-C must not reach it directly; `run` sends SIGTERM, at which it saves
        )


def failure(training: Training) -> str:
    """Message about a training that failed."""
    log = training.folder / "console.txt"
    end = "\n".join(log.read_text().splitlines()[-15:])
    return f"{training.name} did not finish. Its output, {log}, ends:\n{end}"


def iterations_of_all(trainings: Sequence[Training], iterations: int) -> int:
    """Iterations done by all trainings, at most ``iterations`` of each."""
    return sum(min(iterations, iterations_done(training.folder)) for training in trainings)


def progress_bar(trainings: Sequence[Training], iterations: int) -> tqdm:
    """Progress bar over the iterations of all trainings; outside a terminal it prints one line per minute."""
    return tqdm(
        total=len(trainings) * iterations,
        initial=iterations_of_all(trainings, iterations),
        unit="it",
        smoothing=0.02,
        mininterval=1 if sys.stderr.isatty() else 60,
        miniters=0,
    )


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """In this block SIGTERM raises SystemExit, so that running trainings are stopped in an orderly way."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
