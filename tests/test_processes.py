# SPDX-License-Identifier: Apache-2.0
"""Forked processes are like those of a Python of their own."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import can_fork, run_python
from tests.two_ranks import run_on_two_ranks

SCRIPT = """
import json, os, sys
variables = [os.environ[name] for name in ("WORD", "OMP_NUM_THREADS")]
print(json.dumps([sys.argv, os.getcwd(), variables, __name__, sys.stdin.read()]))
sys.exit("a message")
"""


def test_words_folder_environment_outputs_and_status_are_its_own(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    run = run_python(script, "a b", 3, cwd=tmp_path, WORD="word")
    assert json.loads(run.stdout) == [[str(script), "a b", "3"], str(tmp_path), ["word", "1"], "__main__", ""]
    assert (run.returncode, run.stderr) == (1, "a message\n")
    assert "WORD" not in os.environ


def test_modules_and_code():
    assert run_python("-m", "json.tool", "--help").stdout.startswith("usage: ")
    assert run_python("-c", "import sys; print(sys.argv)", "x").stdout == "['-c', 'x']\n"


def test_an_error_leaves_its_traceback():
    run = run_python("-c", "raise ValueError('it broke')")
    assert run.returncode == 1
    assert run.stderr.startswith("Traceback")
    assert run.stderr.endswith("ValueError: it broke\n")


def test_a_signal_is_its_status():
    assert run_python("-c", "import os; os.kill(os.getpid(), 9)").returncode == -signal.SIGKILL


def test_exit_handlers_run():
    assert run_python("-c", "import atexit; atexit.register(print, 'bye')").stdout == "bye\n"


@pytest.mark.skipif(not can_fork(), reason="processes are not forked here")
def test_a_process_ends_with_the_one_that_asked_for_it(tmp_path):
    run_python("-c", "")  # the server is there, and its address in the environment
    wait = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    asking = subprocess.Popen(
        [sys.executable, "-c", f"from tests.processes import run_python; run_python('-c', {wait!r})"]
    )
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.05)
        assert asking.poll() is None
    asking.kill()
    asking.wait()
    process = int((tmp_path / "pid").read_text())
    while os.path.exists(f"/proc/{process}"):  # the timeout of the suite ends this
        time.sleep(0.05)


def fail() -> None:
    raise ValueError("of a rank")


def test_an_error_of_a_rank_fails_the_test():
    with pytest.raises(AssertionError, match="ValueError: of a rank"):
        run_on_two_ranks(fail)
