"""Processes of their own for tests, started in milliseconds.

`python train_net.py` imports for seconds what then runs for one, and takes some 450 MiB for it. A server that has
imported the project forks the processes instead: each has arguments, a folder, an environment, outputs and an end of
its own, and shares the memory of what is imported. Only what happens before the end of the imports is not tested this
way; `test_train_net.py` and `test_two_ranks_over_gloo` start Python itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

#: What the processes of this suite import, up to the modules that are imported late.
PRELOADED = ("train_net", "tests.two_ranks", "dino_d2.evaluation", "dino_d2.visualize", "scipy.optimize",
             "matplotlib.figure", "torch.utils.tensorboard", "torch.distributed.run", "pytest")  # fmt: skip

_server: subprocess.Popen | None = None


def run_python(*words: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    """What `python WORDS...` does, with one thread; the rest of the environment is that of the tests.

    Args:
        words: a script and its arguments, or "-m", a module and its arguments.
        cwd: the folder it runs in.
        environment: variables of the process.

    Returns:
        Its exit status (negative: the signal that ended it), stdout and stderr.
    """
    command = [str(word) for word in words]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **environment}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        request = {"words": command, "cwd": str(cwd), "environment": variables, "outputs": [str(f) for f in files]}
        code = _ask(request)
        return subprocess.CompletedProcess(command, code, *(file.read_text() for file in files))


def _ask(request: dict) -> int:
    """Have the server fork a process, and wait for its exit status."""
    global _server
    if _server is None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        _server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        atexit.register(stop)
    try:
        print(json.dumps(request), file=_server.stdin, flush=True)
        return int(_server.stdout.readline())
    except BaseException:  # a timeout or Ctrl-C: nothing of it may go on
        stop()
        raise


def stop() -> None:
    """End the server and all that it has started."""
    global _server
    if _server is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(_server.pid, signal.SIGKILL)
        _server.wait()
        _server.stdin.close()
        _server.stdout.close()
        _server = None


def _serve() -> dict | None:
    """Fork a process for each request. Returns the request in that process, and None in the server at the end."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.freeze()  # the collector would otherwise write to, and so copy, what the processes share
    with os.fdopen(os.dup(0)) as requests, os.fdopen(os.dup(1), "w") as answers:
        for line in requests:
            process = os.fork()
            if process == 0:
                return json.loads(line)
            _, status = os.waitpid(process, 0)
            print(os.waitstatus_to_exitcode(status), file=answers, flush=True)
    return None


def _run(request: dict) -> None:
    """In the forked process: become what was asked for."""
    modes = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *(os.open(f, modes) for f in request["outputs"])]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    program, *arguments = request["words"]
    if program == "-m":
        sys.argv, sys.path[0] = arguments, request["cwd"]
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [program, *arguments], str(Path(program).resolve().parent)
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    request = _serve()
    if request:
        _run(request)
