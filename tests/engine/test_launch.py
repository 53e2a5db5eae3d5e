# SPDX-License-Identifier: Apache-2.0
"""What a run does before its first line: limits of the machine, and Ctrl-C during the imports."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from dino_d2.engine.launch import raise_descriptor_limit
from dino_d2.signals import ended_by_interrupt
from tests.paths import ROOT


def test_as_many_files_may_be_open_as_the_system_allows():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_ctrl_c_during_the_imports_shows_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "train_net.py", "--config-file", "configs/dino/dino_tiny_shapes.py", "--num-gpus", "0"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while process.poll() is None and "torch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGINT  # a shell says 130
    assert output == ""


def test_ctrl_c_is_python_s_again_after_the_imports():
    before = signal.getsignal(signal.SIGINT)
    with ended_by_interrupt():
        inside = signal.getsignal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
    assert before != signal.default_int_handler or inside == signal.SIG_DFL
