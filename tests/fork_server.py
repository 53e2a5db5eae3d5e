# SPDX-License-Identifier: Apache-2.0
"""A process that has imported the project and forks others from itself; `processes.py` starts it and asks.

    python tests/fork_server.py LISTENER

LISTENER is the number of a listening Unix socket, inherited. A request is a JSON object {"words", "cwd",
"environment"} with three file descriptors: stdin, stdout and stderr of the process. The answer is its exit status.
The server ends with its own stdin, and a process is killed when the one that asked for it is gone.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: What the tests and their processes import, up to modules that are imported late.
PRELOADED = ("train_net", "tests.two_ranks", "dino_d2.evaluation", "dino_d2.visualize", "scipy.optimize",
             "matplotlib.figure", "torch.utils.tensorboard", "torch.distributed.run", "pytest")  # fmt: skip


def serve(listener: socket.socket) -> dict | None:
    """Fork a process for each request. Returns the request in that process, and None in the server at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the monitors
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return monitor(connection)
        connection.close()


def monitor(connection: socket.socket) -> dict:
    """Fork the process that is asked for, and answer how it ended. Returns the request in that process alone."""
    content, files, _, _ = socket.recv_fds(connection, 2**20, 3)
    request = json.loads(content)
    process = os.fork()
    if process == 0:
        connection.close()
        os.setpgid(0, 0)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        return request
    for file in [0, *files]:
        os.close(file)
    with contextlib.suppress(ProcessLookupError):
        ended = os.pidfd_open(process)
        ready, _, _ = select.select([connection, ended], [], [])
        if ended not in ready:
            os.killpg(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(BrokenPipeError):
        connection.send(json.dumps(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def run(request: dict) -> None:
    """Do what `python WORDS...` does."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    program, *arguments = request["words"]
    if program == "-c":
        code, *sys.argv[1:] = arguments
        sys.argv[0], sys.path[0] = "-c", ""
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(sys.modules["__main__"]))
    elif program == "-m":
        sys.argv, sys.path[0] = arguments, request["cwd"]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [program, *arguments], str(Path(program).resolve().parent)
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # the collector would otherwise write to, and so copy, what the processes share
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request:
        run(request)
