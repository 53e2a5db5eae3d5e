# SPDX-License-Identifier: Apache-2.0
"""Shared by the benchmarks: timing in turns, peak memory, traces, and a description of the machine."""

import ctypes
import gc
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from dino_d2.layers.ms_deform_attn import op_is_built

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def machine(device: str) -> str:
    """Processor or GPU, number of threads, and versions of PyTorch and Python."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        capability = torch.ops.dino_d2.cpu_capability() if op_is_built() else "no op"
        name = f"{models[0].split(':')[1].strip() if models else platform.machine()}, "
        name += f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {capability}"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def elapsed_ms(work: Callable[[], Any], device: str) -> float:
    """Duration of ``work`` in milliseconds; on a GPU it is measured by CUDA events."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)


def take_turns(works: dict[str, Callable[[], Any]], device: str, seconds: float, least: int = 3) -> dict[str, list]:
    """Durations of several functions in milliseconds, measured in rounds in which each runs once.

    A first round is not timed. A function takes part until it has run for ``seconds``, and at least ``least`` times.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for turn in range(101):
        waiting = [name for name in works if turn < least or sum(times[name]) < 1e3 * seconds]
        for name in waiting:
            times[name].append(elapsed_ms(works[name], device))
        if not waiting:
            break
    return times


def peak_mib(work: Callable[[], Any], device: str) -> float:
    """Largest memory during ``work`` in addition to what was in use before, in MiB; NaN if the system cannot tell.

    On a CPU it is the resident memory of the process. Memory that an allocator keeps counts as used, so each case must
    be measured in its own process (:func:`in_fresh_process`).
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # otherwise new allocations would reuse freed memory unseen
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a new interpreter with the same number of threads; both must be picklable."""
    with fresh_process() as process:
        return process.submit(function, *arguments).result()


def fresh_process() -> ProcessPoolExecutor:
    """A new interpreter with the same number of threads, which runs submitted functions until it is closed."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, torch.set_num_threads, (torch.get_num_threads(),))


def write_trace(work: Callable[[], Any], device: str, path: Path) -> None:
    """Profile one run of ``work``, print the slowest operators and write a trace for chrome://tracing or Perfetto."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=True) as profile:
        work()
    print(profile.key_averages().table(sort_by=f"self_{device}_time_total", row_limit=25, max_name_column_width=60))
    profile.export_chrome_trace(str(path))
    print(f"trace: {path}")


def write_json(path: Path | None, device: str, rows: list[dict]) -> None:
    """Write ``{"machine", "rows"}``; with a path of None, do nothing."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=1) + "\n")


def median(times: list[float]) -> float:
    return statistics.median(times)


def _resident(what: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(what)) / 1024
