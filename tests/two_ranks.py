# SPDX-License-Identifier: Apache-2.0
"""Two ranks over gloo for a test's own function."""

import functools
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch.multiprocessing

from dino_d2.detectron2.engine import launch
from dino_d2.engine.launch import leave_process_groups
from tests.processes import run_python


def run_on_two_ranks(job: Callable[..., None], *arguments: Any) -> None:
    """`job(*arguments)` on each of two ranks; all must be picklable. An error of either rank fails the test.

    Detectron2's `launch` forks the ranks from a process that has imported the project.
    """
    with tempfile.NamedTemporaryFile(suffix=".pickle") as file:
        pickle.dump((job, arguments), file)
        file.flush()
        run = run_python("-m", "tests.two_ranks", file.name)
    assert run.returncode == 0, run.stdout + run.stderr


def _run(job: Callable[..., None], arguments: tuple) -> None:
    job(*arguments)
    leave_process_groups()


if __name__ == "__main__":
    forked = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
    with mock.patch.object(torch.multiprocessing, "start_processes", forked):
        launch(_run, 2, dist_url="auto", args=pickle.loads(Path(sys.argv[1]).read_bytes()))
