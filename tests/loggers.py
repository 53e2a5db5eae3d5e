# SPDX-License-Identifier: Apache-2.0
"""Loggers as they were before: a run sets up those of the project for its own process."""

import contextlib
import logging
from collections.abc import Iterator

_NAMES = ("dino_d2", "detectron2", "fvcore")


@contextlib.contextmanager
def loggers_restored() -> Iterator[None]:
    """What happens inside does not change handlers, propagation or levels for what follows."""
    loggers = [logging.getLogger(name) for name in _NAMES]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
