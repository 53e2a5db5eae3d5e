"""Two ranks over gloo for a test's own function."""

from collections.abc import Callable
from typing import Any

from dino_d2.detectron2.engine import launch
from dino_d2.engine.launch import leave_process_groups


def run_on_two_ranks(job: Callable[..., None], *arguments: Any) -> None:
    """`job(*arguments)` on each of two ranks; both must be picklable. What one rank raises is raised here."""
    launch(_run, 2, dist_url="auto", args=(job, arguments))


def _run(job: Callable[..., None], arguments: tuple) -> None:
    job(*arguments)
    leave_process_groups()
