# SPDX-License-Identifier: Apache-2.0
"""The limit on the suite's memory: what counts, and that more than the limit fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.memory_limit import descendants, resident_mib
from tests.processes import run_python

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="measured in Linux's /proc")

HOLD = """
import sys
block = bytes([1]) * int(float(sys.argv[1]) * 2**20)
print(flush=True)
input()
"""


def test_memory_of_descendants_counts():
    command = [sys.executable, "-c", f"import subprocess; subprocess.run({[sys.executable, '-c', HOLD, '64']})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        below = descendants(child.pid)
        assert len(below) == 1
        assert set(below) < set(descendants(os.getpid()))
        assert 64 < resident_mib(below) < 128
        assert resident_mib([child.pid, *below]) < resident_mib([child.pid]) + 100, "the interpreter's files count once"
        child.communicate(b"\n")
    assert resident_mib(below) == 0


@pytest.mark.parametrize(("limit", "status"), [(1, 1), (10**6, 0)])
def test_a_session_beyond_the_limit_says_so_and_fails_where_it_is_enforced(limit, status, tmp_path):
    (tmp_path / "test_nothing.py").write_text("def test_nothing(): pass")
    code = (
        "import os, sys, pytest; os.environ['DINO_D2_ENFORCE_MEMORY'] = '1'; from tests import memory_limit as plugin\n"
        f"plugin.LIMIT_MIB = {limit}; sys.exit(pytest.main(['test_nothing.py'], [plugin]))"
    )
    run = run_python("-c", code, cwd=tmp_path)
    assert run.returncode == status, run.stdout
    assert "1 passed" in run.stdout
    assert ("TOO MUCH MEMORY: peak memory" in run.stdout) == (status == 1)
