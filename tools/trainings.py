"""Many trainings of train_net.py, some at a time: what ablate.py and compare_family.py share. Not a program itself.

A training lies in its folder: what is there says how far it is, and starting it again goes on from there. Each one has
one thread. That wastes less than many threads on models as small as these, and, with as many at a time as the machine
has cores, leaves their times comparable; not so if other work runs beside them.
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
LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Training:
    """What is trained, and where to.

    Args:
        name: in the progress bar and in errors.
        config: of train_net.py.
        folder: of its output; console.txt in it has what it prints.
        seed: of the training.
        values: of the config, such as ``train.device=cpu``.
    """

    name: str
    config: Path
    folder: Path
    seed: int
    values: tuple[str, ...] = ()


def lines_of(folder: Path) -> list[dict]:
    """metrics.json, but for a last line that is being written."""
    path = folder / "metrics.json"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def iterations_done(folder: Path) -> int:
    """Of a training; all of them only when its last evaluation is written too."""
    lines = lines_of(folder)
    evaluated = max((line["iteration"] for line in lines if "bbox/AP" in line), default=0)
    return max([evaluated, *(line["iteration"] for line in lines if "total_loss" in line)])


def unfinished(trainings: Sequence[Training], iterations: int) -> list[Training]:
    """Those that have not come to the end of this budget."""
    return [training for training in trainings if iterations_done(training.folder) < iterations]


def run(trainings: Sequence[Training], iterations: int, evaluations: int, jobs: int) -> list[str]:
    """Run those that are not finished, in their order. Ctrl-C and SIGTERM let them save a checkpoint and end.

    Args:
        trainings: each with a folder of its own.
        iterations: of each.
        evaluations: of each, evenly spread.
        jobs: trainings at a time.

    Returns:
        for each training that failed, a message with the end of its output; the others are not stopped by it.
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
                time.sleep(LOOK_EVERY)
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
    """train_net.py, from where it was stopped."""
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
            start_new_session=True,  # so that Ctrl-C reaches it as the SIGTERM that it saves a checkpoint at
        )


def failure(training: Training) -> str:
    """What to say of a training that has ended too early."""
    log = training.folder / "console.txt"
    end = "\n".join(log.read_text().splitlines()[-15:])
    return f"{training.name} did not finish. Its output, {log}, ends:\n{end}"


def iterations_of_all(trainings: Sequence[Training], iterations: int) -> int:
    """Iterations done by all trainings, each up to its budget."""
    return sum(min(iterations, iterations_done(training.folder)) for training in trainings)


def progress_bar(trainings: Sequence[Training], iterations: int) -> tqdm:
    """Of the iterations of all trainings; a line a minute where it cannot be rewritten, as in a file."""
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
    """SIGTERM ends the block as Ctrl-C does, so that what must be tidied up is."""

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
