# SPDX-License-Identifier: Apache-2.0
"""Signals to the process that starts the ranks: forwarded to those that can handle them; otherwise all are killed."""

import signal

import pytest

from dino_d2.signals import SIGNALS
from tests.processes import run_python

PARENT = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from dino_d2.engine.forwarding import Forwarding
from dino_d2.engine.records import Record, RecordFile
from dino_d2.signals import SIGNALS, Interrupted, interruptible

folder, number, starting = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "starting"

def rank(local_rank):
    try:
        with interruptible():
            if not starting or local_rank == 0:
                RecordFile(folder, local_rank).write(Record(local_rank, os.getpid()))
            if not starting:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            if local_rank == 1:
                while not records[0].read():
                    time.sleep(0.01)
                if starting:
                    os.killpg(0, number)  # as Ctrl-C does
                else:
                    os.kill(os.getppid(), number)
            time.sleep(60)
    except Interrupted as interrupted:
        sys.exit(100 + interrupted.number)

before = [signal.getsignal(number) for number in SIGNALS]
records = [RecordFile(folder, local_rank) for local_rank in range(2)]
ranks = [multiprocessing.get_context("fork").Process(target=rank, args=(i,)) for i in range(2)]
with Forwarding(records) as forwarding:
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
assert [signal.getsignal(number) for number in SIGNALS] == before
assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
print(forwarding.received, forwarding.killed, *[one.exitcode for one in ranks])
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_ranks_that_handle_a_signal_get_it(number, tmp_path):
    run = run_python("-c", PARENT, tmp_path, int(number), "running")
    assert run.stdout.split() == [str(int(number)), "False", *[str(100 + number)] * 2], run.stdout + run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_all_ranks_are_killed_as_long_as_one_cannot_handle_signals(number, tmp_path):
    run = run_python("-c", PARENT, tmp_path, int(number), "starting")
    assert run.stdout.split() == [str(int(number)), "True", "-9", "-9"], run.stdout + run.stderr
    assert run.stderr == ""
