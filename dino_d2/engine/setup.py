# SPDX-License-Identifier: Apache-2.0
"""Set-up of a run: log, seed and config.yaml."""

import atexit
import contextlib
import copy
import functools
import io
import logging
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from dino_d2.detectron2.config import LazyConfig
from dino_d2.detectron2.utils import comm
from dino_d2.detectron2.utils.collect_env import collect_env_info
from dino_d2.detectron2.utils.env import seed_all_rng
from dino_d2.detectron2.utils.logger import setup_logger
from dino_d2.detectron2.utils.registry import _convert_target_to_string  # type: ignore[attr-defined]  # private
from dino_d2.files import write_atomically

from .values import calls

#: Names of the loggers that write to the output folder.
LOGGERS = ("fvcore", "detectron2", "dino_d2")


def start_log(cfg: DictConfig) -> None:
    """Send log lines to the terminal and to the output folder."""
    for name in LOGGERS:
        logger = setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name=name)
        write_utf8(logger)
        survive_disk_errors(logger)


def set_up(cfg: DictConfig, args: Namespace) -> None:
    """Log the environment and seed the random generators with ``train.seed`` plus the rank.

    With `start_log` this is Detectron2's ``default_setup`` without its config.yaml, which would replace that of an
    earlier run before this one has passed its checks.

    Args:
        args: of Detectron2's ``default_argument_parser``; the command line and the config file go to the log.
    """
    rank, logger = comm.get_rank(), logging.getLogger("detectron2")
    logger.info("Rank of current process: %d. World size: %d", rank, comm.get_world_size())
    logger.info("Environment info:\n%s", collect_env_info())
    logger.info("Command line arguments: %s", args)
    content = Path(args.config_file).read_text(encoding="utf-8", errors="replace")
    logger.info("Contents of args.config_file=%s:\n%s", args.config_file, content)
    seed = cfg.train.get("seed")
    seed_all_rng(None if seed is None or seed < 0 else seed + rank)
    if not args.eval_only:
        torch.backends.cudnn.benchmark = cfg.train.get("cudnn_benchmark") or False
    precision = cfg.train.get("float32_precision")
    if precision and torch.cuda.is_available():
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = precision != "highest"


def write_utf8(logger: logging.Logger) -> None:
    """Make a logger write UTF-8 to files in any locale, and escape characters that a terminal cannot show."""
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")
        elif stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8")


def survive_disk_errors(logger: logging.Logger) -> None:
    """Report a log file that cannot be written, as on a full disk, in one line instead of a traceback per log line.

    The error that stops the run is then the last thing on the terminal.
    """
    for handler in logger.handlers:
        stream = getattr(handler, "stream", None)
        if stream in (None, sys.stdout, sys.stderr):
            continue
        handler.handleError = functools.partial(_report_log_error, handler)  # type: ignore[method-assign]
        atexit.register(_close, stream)  # before Detectron2's own closing, which shows a traceback


@contextlib.contextmanager
def disk_errors_of_threads_in_a_line() -> Iterator[None]:
    """Report a write error of a thread, such as TensorBoard's, in one line; it reaches no caller."""
    previous = threading.excepthook

    def report(arguments: Any) -> None:
        if isinstance(arguments.exc_value, OSError):
            _say_once(f"A thread cannot write: {arguments.exc_value.strerror}")
        else:
            previous(arguments)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = previous


def _report_log_error(handler: logging.Handler, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if isinstance(error, OSError):
        _say_once(f"The log file cannot be written: {error.strerror}")
    else:
        logging.Handler.handleError(handler, record)


@functools.cache
def _say_once(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _close(stream: IO[str]) -> None:
    with contextlib.suppress(OSError):
        stream.close()


def config_yaml(cfg: DictConfig) -> Path:
    """The path of a run's config.yaml."""
    return Path(cfg.train.output_dir) / "config.yaml"


def save_config(cfg: DictConfig) -> None:
    """Write the config as config.yaml in its output folder, atomically and in UTF-8.

    If YAML cannot represent a value, such as a lambda, Detectron2 also saves config.yaml.pkl, with a warning.
    """
    path = config_yaml(cfg)
    if names := list(_defined_in_config_file(cfg)):
        logging.getLogger("dino_d2").warning(
            "%s cannot be loaded again: %s is defined in the config file alone. Move it to a module that can be "
            "imported, or use the config file itself, with the same overrides, to resume, evaluate and predict.",
            path,
            ", ".join(names),
        )
    try:
        text = to_yaml(cfg)
    except Exception:  # any object may be in a config, and each fails in its own way
        LazyConfig.save(cfg, str(path))
        return
    write_atomically(path, lambda file: file.write(text.encode()))


def _defined_in_config_file(cfg: DictConfig) -> Iterator[str]:
    """Names of the callables of calls that no imported module has."""
    for _, call in calls(cfg):
        target = call._target_
        module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
        if module and name and not hasattr(sys.modules.get(module), name.partition(".")[0]):
            yield name


def to_yaml(cfg: DictConfig) -> str:
    """The config in the form of ``LazyConfig.save``, for either engine; it can be loaded again.

    Raises:
        Exception: of any kind, if YAML cannot hold a value.
    """
    cfg = copy.deepcopy(cfg)
    for _, call in calls(cfg):
        if callable(call._target_) and hasattr(call._target_, "__qualname__"):
            call._target_ = _convert_target_to_string(call._target_)
    text = yaml.dump(
        OmegaConf.to_container(cfg, resolve=False), default_flow_style=None, allow_unicode=True, width=9999
    )
    text = text.replace("dino_d2.detectron2.embedded.", "dino_d2.detectron2.")
    yaml.unsafe_load(text)
    return text
