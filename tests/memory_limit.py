# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: the suite fits a laptop. All its processes together should stay below `LIMIT_MIB`.

More is reported at the end with the tests and processes of that moment; with DINO_D2_ENFORCE_MEMORY=1 it also fails the
session. Which tests coincide depends on the machine, so the last word is a person's.

Measured twice a second by the process that was started: the anonymous memory of that process and of all below it,
where a page that several processes share counts once, and the files they have mapped, which are the same libraries
in all of them and therefore count once too (the largest figure of one process).

Tests that need much, or start fresh Pythons (0.5 GB each), are marked `large_memory`: no two of them run at a time.
"""

import ctypes
import fcntl
import gc
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_MIB = 3000
#: Once tests have left this much more than there was, or a file ends, what is free is given back to the system.
TRIM_MIB = 100

PROC = Path("/proc")
MIB = 2**20


def descendants(pid: int) -> list[int]:
    """Process ids below `pid`; those that end meanwhile are left out."""
    found = []
    for file in PROC.glob(f"{pid}/task/*/children"):
        try:
            children = [int(child) for child in file.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


def _kib(file: Path, *keys: str) -> int:
    """The sum of some lines of a file of /proc; 0 for a process that has ended."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith(keys))


def own_mib(pid: int) -> float:
    """A process's share of anonymous memory."""
    return _kib(PROC / str(pid) / "smaps_rollup", "Pss_Anon:", "Pss_Shmem:") / 1024


def resident_mib(pids: list[int]) -> float:
    """Memory of some processes together, as described above."""
    files = max(_kib(PROC / str(pid) / "status", "RssFile:") for pid in pids) / 1024
    return files + sum(own_mib(pid) for pid in pids)


def largest(pids: list[int], count: int = 8) -> str:
    """The largest of some processes, one a line."""
    sizes = sorted(((own_mib(pid), pid) for pid in pids), reverse=True)[:count]
    return "\n".join(f"  {size:6,.0f} MiB  {_command(pid)}" for size, pid in sizes)


def _command(pid: int) -> str:
    try:
        return (PROC / str(pid) / "cmdline").read_text().replace("\0", " ")[:120]
    except OSError:
        return "(ended)"


class MemoryLimit:
    """Watches the processes of a session and remembers their peak."""

    def __init__(self) -> None:
        self.peak, self.during, self.processes = 0.0, "", ""
        self.running: dict[str, None] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self) -> None:
        while not self.ended.wait(0.5):
            self.measure()

    def measure(self) -> None:
        running = ", ".join(self.running)
        pids = [os.getpid(), *descendants(os.getpid())]
        now = resident_mib(pids)
        if now > self.peak:
            self.peak, self.during = now, running
            self.processes = largest(pids) if now > LIMIT_MIB else ""

    def pytest_sessionstart(self) -> None:
        self.thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.running[nodeid] = None

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.running.pop(nodeid, None)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.ended.set()
        self.thread.join()
        self.measure()
        enforced = os.environ.get("DINO_D2_ENFORCE_MEMORY") == "1"
        if enforced and self.peak > LIMIT_MIB and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        line = f"peak memory of all processes: {self.peak:,.0f} MiB of {LIMIT_MIB:,}, in {self.during or 'no test'}"
        terminalreporter.write_line(f"TOO MUCH MEMORY: {line}\n{self.processes}" if self.peak > LIMIT_MIB else line)


def pytest_configure(config: pytest.Config) -> None:
    is_worker = hasattr(config, "workerinput")
    many_workers = (config.getoption("numprocesses", None) or 0) > 2
    on_gpu = (PROC / "driver/nvidia").exists()  # a CUDA context of each process takes hundreds of MiB
    if (PROC / "self/smaps_rollup").exists() and not (is_worker or many_workers or on_gpu):
        config.pluginmanager.register(MemoryLimit())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with tests of much memory come first: by and by all processes grow, by what libraries keep."""
    large = {item.path for item in items if item.get_closest_marker("large_memory")}
    items.sort(key=lambda item: item.path not in large)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Of the tests that are marked `large_memory`, run one at a time, whichever worker it is in."""
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if session is None or item.get_closest_marker("large_memory") is None:
        return (yield)
    with open(Path(tempfile.gettempdir(), f"dino_d2_tests_{session}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)


_floor = 0.0


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Give back what tests have freed: malloc keeps it otherwise, and a model may be part of a cycle."""
    global _floor
    if not (PROC / "self/statm").exists():
        return
    file_ends = nextitem is None or nextitem.path != item.path
    if file_ends or _resident() > _floor + TRIM_MIB:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        _floor = _resident()


def _resident() -> float:
    return int((PROC / "self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
