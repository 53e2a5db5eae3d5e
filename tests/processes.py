# SPDX-License-Identifier: Apache-2.0
"""Processes of their own for tests, started in milliseconds.

`python train_net.py` imports for seconds what then runs for one, and takes some 450 MiB for it. A server
(`fork_server.py`) that has imported the project forks the processes instead: each has arguments, a folder, an
environment, outputs and an end of its own, and they share the memory of what is imported. Only what happens before the
end of the imports is not tested this way; `test_train_net.py` and `test_user_mistakes.py` start Python itself too.

    python tests/processes.py WORDS...

is `run_python` as a command, for programs that start a Python themselves; pytest-xdist starts its workers with it.
"""

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Environment variable with the path of the server's socket; the server belongs to the process that has set it.
ADDRESS = "DINO_D2_TESTS_SERVER"


def run_python(*words: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """What `python WORDS...` does, with one thread; the rest of the environment is that of the tests.

    Args:
        words: a script, or "-m" and a module, or "-c" and code; then its arguments.
        cwd: the folder it runs in.
        environment: variables of the process.

    Returns:
        Its exit status (negative: the signal that ended it), stdout and stderr.
    """
    command = [str(word) for word in words]
    variables = {**_environment(), **environment}
    if not can_fork():
        return subprocess.run([sys.executable, *command], cwd=cwd, env=variables, capture_output=True, text=True)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err, open(os.devnull) as nothing:
        code = fork(command, cwd, variables, [file.fileno() for file in (nothing, out, err)])
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def _environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}


def can_fork() -> bool:
    """Whether processes are forked here: on Linux. Elsewhere libraries do not survive it."""
    return sys.platform == "linux"


def python() -> list[str]:
    """The words in place of `python` for programs that start one themselves; it is forked, too."""
    if not can_fork():
        return [sys.executable]
    start_server()
    return [sys.executable, "-S", __file__]


def fork(words: list[str], cwd: Path, environment: dict[str, str], files: list[int]) -> int:
    """Have the server fork a process with these three files, and wait for its exit status."""
    start_server()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(os.environ[ADDRESS])
        request = {"words": words, "cwd": str(cwd), "environment": environment}
        socket.send_fds(connection, [json.dumps(request).encode()], files)
        return json.loads(connection.recv(64))


def start_server() -> None:
    """Start a server for this process and those below it, where there is none yet."""
    if ADDRESS in os.environ:
        return
    folder = tempfile.mkdtemp()
    os.environ[ADDRESS] = f"{folder}/socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(os.environ[ADDRESS])
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "fork_server.py"), str(listener.fileno())],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            env=_environment(),
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the tests
        )

    def stop() -> None:
        server.stdin.close()
        server.wait()
        shutil.rmtree(folder)

    atexit.register(stop)


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "-u"]
    sys.exit(fork(words, Path.cwd(), _environment(), [0, 1, 2]))
