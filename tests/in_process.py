"""train_net.py without a process of its own, for tests that would start Python a hundred times."""

import logging

from dino_d2.detectron2.engine import default_argument_parser
from dino_d2.engine.command import main

_LOGGERS = ("dino_d2", "detectron2", "fvcore")


def run_train_net(*arguments: str) -> None:
    """`python train_net.py ...`; the loggers it sets up are as before afterwards."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        main(default_argument_parser().parse_args(arguments))
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
